"""Heads beyond those of the library: linear-chain CRFs, adaptive softmax, contrastive losses."""
