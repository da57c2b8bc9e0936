"""Numbers only: counts of pixels and the metrics from them. NumPy only."""
