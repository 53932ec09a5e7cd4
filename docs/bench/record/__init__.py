"""What came of a run: the machine, what was found on it, and the tables that say so."""
