"""One file a format; each has `write(run, document)`, which returns the files it wrote, the main one first."""
