"""Pictures and tables made of the numbers."""
