"""Data types that flow between stages: rows, batches in both layouts, states, pooled vectors and scores."""
