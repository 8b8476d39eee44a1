"""What a kind of model makes, and how it is judged."""
