"""An experiment platform for weakly supervised semantic segmentation on Ray, with AMN as its reference method."""

import os

__version__ = "0.2.0"

# MLflow and Ray send usage data by default. It is turned off here, before either is imported, for all processes, unless
# the user has set these variables.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
