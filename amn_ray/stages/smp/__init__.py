"""The segmentation networks of segmentation-models-pytorch, an optional dependency (extra `networks`)."""
