"""Training with Ray Train: the driver and the stream of examples, and the loop inside each worker."""
