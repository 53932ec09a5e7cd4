"""Records of runs: the machine, the results, their tables, and the targets."""
