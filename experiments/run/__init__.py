"""Makes what a study asks for: images, rows, sets, costs."""
