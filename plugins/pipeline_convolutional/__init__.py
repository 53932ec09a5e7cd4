"""Convolutional encoders on packed rows."""
