"""The measurements, those of one subject in a module."""
