"""Run a study: `python jobs/sweep.py study=lc_placement dataset=voc12 dataset.root=… 'seeds=[0,1]'`."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from amn_ray.cli import entry


@hydra.main(version_base="1.3", config_path="../conf", config_name="sweep")
def main(composed: DictConfig) -> None:
    """Compose, check, run."""
    from amn_ray.cli import jobs

    with entry.plain_errors():
        jobs.sweep(composed, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    entry.run(main)
