"""Encoder candidates: the library, torch's packed and dense kernels, and other runtimes; and the measured points."""
