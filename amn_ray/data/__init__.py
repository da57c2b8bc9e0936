"""Sources of labelled images and what is done to pixels before a network sees them. Knows nothing of stages or Ray."""
