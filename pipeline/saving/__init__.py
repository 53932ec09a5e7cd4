"""Save and load a pipe as plain files. Loading runs no code."""
