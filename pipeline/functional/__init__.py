"""Mathematics on the ragged layout: reductions per row, and attention."""
