"""Decoders: recurrent and transformer, with cross-attention."""
