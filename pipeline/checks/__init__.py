"""What is checked where something goes into a stage, a batch or a part, or comes out of it."""
