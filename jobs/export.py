"""Write a finished run's masks as palette PNGs: `python jobs/export.py step=pseudo_masks out=masks/`."""

from amn_ray.cli import main

if __name__ == "__main__":
    main.run("export")
