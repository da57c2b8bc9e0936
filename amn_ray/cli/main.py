"""`amn-ray JOB key=value …`, and `python jobs/JOB.py key=value …`: what happens before a job's work, on one page."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from amn_ray.cli import entry, jobs

JOBS = {
    "pipeline": "run the whole pipeline",
    "sweep": "run a study",
    "report": "write a page about runs",
    "export": "write a finished run's masks",
    "predict": "segment new images with a trained network",
    "prepare": "build the tables of a data set only",
}
COMPOSED = {"prepare": "pipeline"}
"""Jobs that use another job's configuration."""


def config_path() -> str:
    """Where conf/ is: beside the package in a source tree, inside it when installed."""
    beside = Path(__file__).parents[2] / "conf"
    return str(beside) if (beside / "pipeline.yaml").is_file() else "pkg://amn_ray.conf"


def run(job: str) -> None:
    """Run a job on the command line of this process, and exit."""
    name = COMPOSED.get(job, job)

    def work(composed: DictConfig) -> None:
        with entry.plain_errors(name):
            getattr(jobs, job)(composed)

    main = hydra.main(version_base="1.3", config_path=config_path(), config_name=name)(work)
    entry.run(name, main)


def main() -> None:
    """The console script `amn-ray`."""
    job = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if job in ("--help", "-h", "help"):
        print("usage: amn-ray JOB [key=value …], where JOB is")
        for name, what in JOBS.items():
            print(f"  {name:9} {what}")
        print("`amn-ray JOB --help` shows all keys of a job.")
        return
    if job not in JOBS:
        print(f"error: {job}: no such job; expected one of {', '.join(JOBS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"amn-ray {job}", *sys.argv[2:]]
    run(job)
