"""The commands beside the main path, a file each: its docstring is the help, `command` takes the options and gives an Answer. No file prints."""

NAMES = ("orders", "check", "fit", "why")
