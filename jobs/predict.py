"""Segment new images with a trained network: `python jobs/predict.py images=folder/ out=folder/`."""

import hydra
from omegaconf import DictConfig

from amn_ray import cli


@hydra.main(version_base="1.3", config_path="../conf", config_name="predict")
def main(composed: DictConfig) -> None:
    """Compose, check, run."""
    from amn_ray import config, predict

    with cli.plain_errors():
        predict.predict(config.load(composed))


if __name__ == "__main__":
    cli.run(main)
