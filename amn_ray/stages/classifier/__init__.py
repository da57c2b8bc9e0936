"""The classifier: trained on image-level labels, shared by all ways to make maps that start from it (method 1)."""
