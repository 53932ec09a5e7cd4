"""Compiled kernels for linear chains. `native_chains.py` calls them."""
