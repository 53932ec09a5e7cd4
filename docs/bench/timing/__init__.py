"""How things are timed: by turns, beside the machine's own peak, and only if they are equal."""
