"""CAM: the classifier's class activation maps (method 2)."""
