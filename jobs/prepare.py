"""Build the sharded image tables of a data set: `python jobs/prepare.py dataset=voc12 dataset.root=…`."""

import hydra
from omegaconf import DictConfig

from amn_ray.cli import entry


@hydra.main(version_base="1.3", config_path="../conf", config_name="pipeline")
def main(composed: DictConfig) -> None:
    """Compose, check, run the first step only."""
    from amn_ray.cli import jobs

    with entry.plain_errors():
        jobs.prepare(composed)


if __name__ == "__main__":
    entry.run(main)
