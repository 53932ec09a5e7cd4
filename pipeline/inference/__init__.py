"""Predictions of a whole pipe: in input order, with scores and their place in the input; vectors; attention weights."""
