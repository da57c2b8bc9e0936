"""Write a page about runs, beside the paper's tables: `python jobs/report.py runs=… out=report/`."""

from amn_ray.cli import main

if __name__ == "__main__":
    main.run("report")
