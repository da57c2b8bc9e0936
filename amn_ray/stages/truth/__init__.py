"""Source → ground-truth masks, a table of its own: an input of scores, and of nothing that learns from labels."""
