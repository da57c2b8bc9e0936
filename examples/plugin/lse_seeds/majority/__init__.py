"""Seeds by majority vote."""
