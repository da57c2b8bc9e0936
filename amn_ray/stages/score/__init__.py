"""Scores: maps or masks against ground truth."""
