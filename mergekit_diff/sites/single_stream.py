"""Image transformers of diffusers in which text and image are one sequence in every block."""
