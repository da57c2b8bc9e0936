"""The pipeline: its steps, their order and settings, the plan, the runner, and the records of runs."""
