"""The commands beside the main path, a file each: its docstring is the help, and `command` takes the options and gives an Answer."""

NAMES = ("orders", "check", "fit", "why", "validate", "compare", "calibrate", "report", "index", "list")
