"""Reports of runs: the console, figures, pages, and what MLflow gets."""
