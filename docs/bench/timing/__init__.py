"""Timing: interleaved rounds, quartiles, and steps that are checked for equal results first."""
