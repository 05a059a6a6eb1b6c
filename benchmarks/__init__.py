"""ReFTA beside LoRA, PiSSA, a naive rebuild and the floor: `python -m benchmarks` (see __main__.py)."""
