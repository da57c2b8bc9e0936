"""Uses of a trained network: predictions, exported masks, a model in MLflow."""
