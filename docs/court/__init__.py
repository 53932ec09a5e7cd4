"""Judge modules of public libraries, and those of this one, by the laws about rows of unequal length."""
