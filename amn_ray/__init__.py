"""AMN ("Threshold Matters in WSSS") as an experiment platform on Ray."""

__version__ = "0.1.0"
