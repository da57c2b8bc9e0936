"""CAM: a classifier trained on image-level labels, and its class activation maps (method 1 and 2)."""
