"""Reports of runs: the console, figures, pages, and MLflow."""
