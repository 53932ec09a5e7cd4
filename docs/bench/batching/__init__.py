"""Batches to measure: rows, ways to make batches of them, and the figures that tell ways apart."""
