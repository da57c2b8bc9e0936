"""Numbers only: counts of pixels, and what follows from them. NumPy alone."""
