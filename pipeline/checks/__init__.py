"""Runtime checks of annotations, and the switches that turn them on and off."""
