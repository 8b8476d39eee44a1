"""Image U-Nets whose attention takes a whole image."""
