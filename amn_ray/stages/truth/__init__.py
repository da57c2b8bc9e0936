"""Source → ground-truth masks: a table of its own, which only scores and `boundaries=ground_truth` read."""
