"""The driver's memory against the number of images: `python -m benchmarks.driver_memory FOLDER` (some minutes).

`jobs/pipeline.py until=images` builds tables of 1,000, 10,000 and 100,000 drawn images, which are then mapped, each
in a process of its own. Its largest resident memory is printed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import ray

from amn_ray.core.artifacts import Store
from amn_ray.platform.cluster import Cluster, ClusterConfig
from amn_ray.platform.mapping import map_table
from amn_ray.recipe.records import find

ROOT = Path(__file__).parent.parent
SIZES = (1_000, 10_000, 100_000)


class Sizes:
    """A mapper that does almost nothing."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`image_id`, `height` -> the same."""
        return batch


def peak_mb() -> int:
    """The largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) // 1024


def map_all(url: str) -> None:
    """Map the table of a store's run."""
    store = Store.open(url)
    images = find(store, None, "images").artifacts["images"]
    cluster = Cluster(ClusterConfig())
    output = store.artifact("sizes", 1, {}, {"images": images})
    map_table(cluster, images, ["height"], Sizes, {}, output, on="tasks")
    ray.shutdown()


def measured(code: str) -> int:
    """The peak of a process that runs this code."""
    code += "\nfrom benchmarks.driver_memory import peak_mb\nprint('PEAK', peak_mb())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True)
    return int(done.stdout.split("PEAK")[-1])


def main(folder: Path) -> None:
    """Print a line for each size."""
    for number in SIZES:
        store = folder / str(number)
        arguments = [
            "pipeline", f"store={store}", "until=images", "dataset.size=32", "dataset.num_val=1",
            f"dataset.num_train={number}",
        ]  # fmt: skip
        prepared = measured(
            f"import sys, runpy\nsys.argv = {arguments!r}\nrunpy.run_path('jobs/pipeline.py', run_name='__main__')"
        )
        mapped = measured(f"from benchmarks.driver_memory import map_all\nmap_all({str(store)!r})")
        print(f"{number} images: {prepared} MB when the table is built, {mapped} MB when it is mapped", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
