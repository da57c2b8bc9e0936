"""IRN: boundaries learned from refined seeds, and the random walk within them (method 7 and 8)."""
