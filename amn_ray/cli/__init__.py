"""What happens between a command line and a job: overrides, schemas, one sentence instead of a traceback."""
