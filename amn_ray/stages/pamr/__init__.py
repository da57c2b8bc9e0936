"""PAMR: maps → refined seeds, by pixel-adaptive mask refinement at two thresholds."""
