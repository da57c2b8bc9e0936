"""Networks that several stages share. Plain PyTorch: no Ray, no MLflow, no stage."""
