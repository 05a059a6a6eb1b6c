"""Predictions: the dry run of the real training step on fake tensors, and the closed form's rows."""
