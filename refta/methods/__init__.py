"""One file per method; the folder is the registry (see refta/registry.py)."""
