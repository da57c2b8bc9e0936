"""Pixel counts and the metrics computed from them. NumPy and SciPy only."""
