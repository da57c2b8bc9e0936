"""Activation maps of a head that is trained by log-sum-exp pooling."""
