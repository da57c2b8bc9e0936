"""AMN ("Threshold Matters in WSSS") as an experiment platform on Ray."""

import os

__version__ = "0.1.0"

# Nothing contacts another host unasked, but MLflow and Ray send usage data unless they are told not to: here, before
# either is imported, for all processes. What the user has set stays.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
