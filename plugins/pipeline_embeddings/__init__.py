"""Embedders: vectors from files, characters, numbers and times, positions."""
