"""Measurement: real training steps of one point in a process of its own, under instruments that do not disturb each other."""
