"""Run the whole pipeline: `python jobs/pipeline.py dataset=voc12 dataset.root=… recipe=quick until=amn_maps`."""

from amn_ray.cli import main

if __name__ == "__main__":
    main.run("pipeline")
