"""A network of segmentation-models-pytorch, trained on the ground truth, as a user runs it, on a real Ray."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from PIL import Image

from amn_ray.core.artifacts import Store
from amn_ray.data.images import decode_mask
from amn_ray.platform.cluster import Cluster
from amn_ray.recipe.records import find
from tests.recipe.test_methods import COUNT, Place

Job = Callable[..., tuple[int, str]]
NETWORK = (
    "boundaries=ground_truth", "segmenter=smp", "segmenter.arch=segformer", "segmenter.encoder=resnet18",
    "segmenter.iterations=4", "segmenter.batch_size=4", "ema=0.9", "predictions.scales=[1.0,0.5]",
)  # fmt: skip


def test_the_ceiling_of_an_smp_network_is_predicted_with_exported_and_logged_as_fully_supervised(
    job: Job, cluster: Cluster, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    code, told = place.run(job, *NETWORK, of_others=("amn", "irn", "segmenter.grad"))
    assert code == 0, told
    run = find(Store.open(str(place.store)), None, "predictions_refined")
    assert set(run.artifacts) == {"images", "truth", "pseudo_masks", "segmenter", "predictions", "predictions_refined"}
    made = {image_id: decode_mask(row["mask"]) for image_id, row in place.table("predictions_refined").items()}
    assert len(made) == COUNT

    assert job("export", f"store={place.store}", "step=predictions_refined", f"out={tmp_path}/export")[0] == 0
    about = json.loads((tmp_path / "export/about.json").read_text())
    assert (about["supervision"], about["segmentation network"]) == ("fully supervised", "segformer resnet18")

    out = tmp_path / "predicted"
    code, told = job("predict", f"store={place.store}", f"images={place.root}/images", f"out={out}")
    assert code == 0, told
    uri = f"sqlite:///{place.store}/mlflow.db"
    client = MlflowClient(uri)
    (experiment,) = (one.experiment_id for one in client.search_experiments() if one.name == "folder")
    found = client.search_runs([experiment])
    (parent,) = (one for one in found if "mlflow.parentRunId" not in one.data.tags)
    assert parent.data.tags["supervision"] == "fully supervised"
    assert parent.info.run_name == "pipeline folder (fully supervised)"
    (model,) = (one.data.tags["model_uri"] for one in found if "model_uri" in one.data.tags)
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(model)
    assert loaded.metadata.metadata == {
        "supervision": "fully supervised", "segmentation network": "segformer resnet18",
    }  # fmt: skip
    encoded = [(place.root / "images" / f"{image_id}.png").read_bytes() for image_id in made]
    of_model = loaded.predict(pd.DataFrame({"image": encoded}))["mask"]
    for (image_id, mask), logged in zip(made.items(), of_model, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(out / "masks" / f"{image_id}.png")), mask)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(logged))), mask)
