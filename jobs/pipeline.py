"""Run the whole pipeline: `python jobs/pipeline.py dataset=voc12 dataset.root=… recipe=quick until=amn_maps`."""

import hydra
from omegaconf import DictConfig

from amn_ray.cli import entry


@hydra.main(version_base="1.3", config_path="../conf", config_name="pipeline")
def main(composed: DictConfig) -> None:
    """Compose, check, run."""
    from amn_ray.cli import jobs

    with entry.plain_errors():
        jobs.pipeline(composed)


if __name__ == "__main__":
    entry.run(main)
