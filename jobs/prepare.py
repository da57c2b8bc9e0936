"""Build the sharded image tables of a data set: `python jobs/prepare.py dataset=voc12 dataset.root=…`."""

from amn_ray.cli import main

if __name__ == "__main__":
    main.run("prepare")
