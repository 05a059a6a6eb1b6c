"""Measurement: real training steps of one point in a fresh process, under instruments that do not disturb each other."""
