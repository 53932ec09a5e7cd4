"""Benchmarks of the library: `python docs/bench`, or `nox -s bench`."""
