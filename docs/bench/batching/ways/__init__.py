"""Ways to make batches: ours, and what else there is."""
