"""What flows between stages: rows, batches of them, states, pooled vectors and answers."""
