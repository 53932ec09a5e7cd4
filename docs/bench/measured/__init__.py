"""What is measured, one file each; `all.py` lists them."""
