"""Thresholds: maps → seeds at the two thresholds, without refinement (what a refinement is worth can be told by it)."""
