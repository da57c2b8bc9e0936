"""Scores: maps or masks against ground truth. The only stage before the segmentation network that reads masks."""
