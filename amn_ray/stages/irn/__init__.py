"""IRN: boundaries learned from seeds, and the random walk that they confine (method 7 and 8)."""
