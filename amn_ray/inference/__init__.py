"""What a trained network is used for: predictions, exported masks, a model in MLflow."""
