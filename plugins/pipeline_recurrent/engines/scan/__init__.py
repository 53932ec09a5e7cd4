"""A layer in plain torch operations on the packed layout, and the cells that it can scan."""
