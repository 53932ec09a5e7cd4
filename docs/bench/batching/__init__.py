"""Batches of rows: the implementations that make them, and the metrics by which they are compared."""
