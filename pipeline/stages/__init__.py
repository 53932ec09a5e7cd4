"""The stages of a pipe."""
