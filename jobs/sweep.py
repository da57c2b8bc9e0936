"""Run a study: `python jobs/sweep.py study=lc_placement dataset=voc12 dataset.root=… 'seeds=[0,1]'`."""

from amn_ray.cli import main

if __name__ == "__main__":
    main.run("sweep")
