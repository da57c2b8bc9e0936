"""Write a page about runs, beside the paper's tables: `python jobs/report.py runs=… out=report/`."""

import hydra
from omegaconf import DictConfig

from amn_ray.cli import entry


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(composed: DictConfig) -> None:
    """Compose, check, run."""
    from amn_ray.cli import jobs

    with entry.plain_errors():
        jobs.report(composed)


if __name__ == "__main__":
    entry.run(main)
