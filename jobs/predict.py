"""Segment new images with a trained network: `python jobs/predict.py images=folder/ out=folder/`."""

from amn_ray.cli import main

if __name__ == "__main__":
    main.run("predict")
