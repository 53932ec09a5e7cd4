"""Mathematics on batches of rows of unequal length: reductions per row, and attention."""
