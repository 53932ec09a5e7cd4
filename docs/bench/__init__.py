"""What the library's speed is measured with: `python docs/bench`, or `nox -s bench`."""
