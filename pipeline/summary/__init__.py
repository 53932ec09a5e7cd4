"""A pipe seen before anything runs: what goes from stage to stage, its weights, its work."""
