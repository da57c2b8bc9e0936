"""AMN: per-pixel classification of refined seeds, conditioned on the image's labels (method 4 and 5)."""
