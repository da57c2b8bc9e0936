"""Thresholds: maps → seeds at the two thresholds, without refinement, as a baseline for refinements."""
