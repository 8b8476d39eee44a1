"""The recipe that trained the embedded model, and the model itself."""
