"""DeepLabv2: the segmentation network, trained on pseudo-masks (method 9 and 10)."""
