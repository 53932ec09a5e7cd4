"""Summaries of a pipe, made before it runs: types, shapes, weights and multiply-adds of each stage."""
