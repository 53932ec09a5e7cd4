"""Recurrent encoders to measure: points, ours, and what else there is."""
