"""Compiled kernels for transformer layers. `native_layers.py` calls them."""
