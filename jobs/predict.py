"""Segment new images with a trained network: `python jobs/predict.py images=folder/ out=folder/`."""

import hydra
from omegaconf import DictConfig

from amn_ray.cli import entry


@hydra.main(version_base="1.3", config_path="../conf", config_name="predict")
def main(composed: DictConfig) -> None:
    """Compose, check, run."""
    from amn_ray.cli import jobs

    with entry.plain_errors():
        jobs.predict(composed)


if __name__ == "__main__":
    entry.run(main)
