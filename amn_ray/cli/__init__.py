"""From a command line to a job: overrides, schemas, and one sentence instead of a traceback."""
