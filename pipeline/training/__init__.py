"""Train a pipe: the loop, optimizers, metrics, checkpoints, and adapters for other training libraries."""
