"""The classifier: trained on image-level labels, shared by all maps methods that start from it (method 1)."""
