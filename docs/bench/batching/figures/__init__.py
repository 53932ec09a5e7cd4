"""What is measured of a way to make batches, one kind of figure a file; `all.py` lists them."""
