"""Answer requests over HTTP with a saved pipe."""
