"""One epoch from texts to a trained model, written in stages and written by hand."""
