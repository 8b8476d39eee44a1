"""The recipe that trains the embedded model, and the model."""
