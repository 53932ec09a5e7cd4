"""Transformer encoders on packed rows."""
