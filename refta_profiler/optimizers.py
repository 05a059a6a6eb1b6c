"""The optimizers that a scenario can name, and the learning rates that points train at: memory and time do not depend on them. No torch."""

LEARNING_RATES = {"adamw": 1e-4, "sgd": 1e-3}
TITLES = {"adamw": "AdamW", "sgd": "SGD"}


def words(name: str) -> str:
    """'AdamW, learning rate 1e-4'; the name itself where it is none of these."""
    if name not in TITLES:
        return name
    return f"{TITLES[name]}, learning rate {f'{LEARNING_RATES[name]:.0e}'.replace('e-0', 'e-')}"
