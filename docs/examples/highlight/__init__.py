"""A model that learns to highlight Python source, from the standard library that is installed.

Run it with `python docs/examples/highlight`. Nothing is downloaded. Read `model.py` first.
"""
