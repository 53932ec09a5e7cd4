"""Choose tokens one after another: greedily, at random, or by a beam search; for any model that scores the next one."""
