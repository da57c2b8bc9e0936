"""Write a finished run's masks as palette PNGs: `python jobs/export.py stage=irn out=masks/`."""

import hydra
from omegaconf import DictConfig

from amn_ray.cli import entry


@hydra.main(version_base="1.3", config_path="../conf", config_name="export")
def main(composed: DictConfig) -> None:
    """Compose, check, run."""
    from amn_ray.cli import jobs

    with entry.plain_errors():
        jobs.export(composed)


if __name__ == "__main__":
    entry.run(main)
