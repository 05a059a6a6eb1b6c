"""Does it still learn? A scenario with `data` trains every method on it, chooses learning rates on a validation split, and tests."""
