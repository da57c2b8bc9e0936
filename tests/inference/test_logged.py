"""The model in MLflow (on a real SQLite file) of a run that ended, told by hand what happens in it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from amn_ray.core.artifacts import MODEL, Artifact, Store, fingerprint
from amn_ray.core.events import Observer, RunBegan, RunEnded, RunFailed, StepBegan, StepEnded
from amn_ray.core.settings import flat
from amn_ray.data.pixels import DEFAULT
from amn_ray.inference.logged import LoggedModel
from amn_ray.inference.segmenter import SETTINGS, WEIGHTS, Settings
from amn_ray.platform.tracking import MODEL_TAG, Tracker
from amn_ray.platform.tracking_config import TrackingConfig
from amn_ray.recipe import records
from amn_ray.recipe.records import Recorder
from amn_ray.reporting.tracked import Tracking
from amn_ray.stages.crf.config import PredictionCrfConfig
from amn_ray.stages.deeplabv2.config import DeepLabConfig, DeepLabPredictionsConfig
from amn_ray.stages.deeplabv2.stage import DEEPLAB

NETWORK = DeepLabConfig(precision="fp32")
PREDICTIONS = DeepLabPredictionsConfig(scales=[1.0, 0.5])
CRF = PredictionCrfConfig(iterations=3)
RECORDED = {
    "choices.prediction_refinement": "crf",
    "choices.maps": "cam",
    "choices.activation": "amn",
    "choices.boundaries": "irn",
    "choices.segmenter": "deeplabv2",
    "segmenter.backbone.name": "resnet101",
    **flat(PREDICTIONS, "predictions."),
    **flat(CRF, "predictions_refined."),
}
CONFIG = TrackingConfig(experiment="test", register="parts", alias="best")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Tracker]:
    """For all tests, since a fresh database costs seconds."""
    store = Store.open(str(tmp_path_factory.mktemp("store")))
    return store, Tracker(CONFIG, store)


class Watched:
    """A run that is watched as jobs watch it, but for the console and the figures."""

    def __init__(self, store: Store, tracker: Tracker, identity: str) -> None:
        self.store = store
        self.tracker = tracker
        folder = records.folder(store).folder(identity)
        self.tracking = Tracking(tracker, "pipeline", identity, {}, folder)
        self.observers: Sequence[Observer] = (
            Recorder(folder, lambda: "id"),
            LoggedModel(store, identity, CONFIG, self.tracking),
            self.tracking,
        )

    def tell(self, *events: RunBegan | RunFailed | RunEnded | StepBegan | StepEnded) -> None:
        for event in events:
            for observer in self.observers:
                observer.notify(event)

    def made(self, stage: str) -> dict[str, Artifact]:
        """The images and a network that `stage` has trained, whose steps begin and end."""
        artifacts = {
            "images": self.store.artifact("images", 1, {}, {}),
            "segmenter": self.store.artifact(stage, 1, {}, {}),
        }
        artifacts["segmenter"].write(MODEL, b"weights")
        results = {"images": {"classes": ["nut"]}, "segmenter": {}}
        for step, artifact in artifacts.items():
            config = NETWORK if step == "segmenter" else {}
            result = {"metrics": {}, "spilled_gb": 0, **results[step]}
            manifest = artifact.commit(config=config, inputs={}, code={}, seconds=1, result=result)
            self.tell(
                StepBegan(step=step, artifact=artifact, settings={}),
                StepEnded(step=step, artifact=artifact, reused=False, manifest=manifest),
            )
        return artifacts

    def end(self, artifacts: dict[str, Artifact]) -> None:
        self.tell(RunEnded(artifacts=artifacts, scores={}, manifests={}, summary={}))

    def child(self) -> Run:
        """The step that trained the network, in MLflow."""
        return self.tracker.client.get_run(self.tracking.children["segmenter"].run_id)


@pytest.fixture
def watched(opened: tuple[Store, Tracker], request: pytest.FixtureRequest) -> Watched:
    return Watched(*opened, fingerprint(request.node.name))


def test_a_run_that_trained_a_network_logs_it_once_with_all_that_it_needs(watched: Watched) -> None:
    for _ in range(2):  # the same command again
        watched.tell(RunBegan(settings=RECORDED))
        watched.end(watched.made(DEEPLAB.name))
    assert watched.tracker.all_delivered
    uri = watched.child().data.tags[MODEL_TAG]
    (version,) = watched.tracker.client.search_model_versions("name='parts'")
    assert watched.tracker.client.get_model_version_by_alias("parts", "best").version == version.version
    mlflow.set_tracking_uri(watched.tracker.uri)
    files = {path.name: path for path in Path(mlflow.artifacts.download_artifacts(uri)).rglob("*")}
    assert files[WEIGHTS].read_bytes() == b"weights"
    predictions = dataclasses.asdict(dataclasses.replace(PREDICTIONS, precision="fp32"))
    opener = "amn_ray.stages.deeplabv2.infer:open_network"
    expected = Settings(opener, dataclasses.asdict(NETWORK), predictions, CRF, ["nut"], DEFAULT)
    assert json.loads(files[SETTINGS].read_text()) == json.loads(json.dumps(dataclasses.asdict(expected)))
    assert watched.child().info.status == "FINISHED"


def test_a_network_that_cannot_be_loaded_again_is_not_logged_and_the_run_ends_well(
    watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    watched.tell(RunBegan(settings=RECORDED))
    watched.end(watched.made("unet"))
    assert "segmenter  is not logged as a model, which unet cannot be" in capsys.readouterr().out
    assert MODEL_TAG not in watched.child().data.tags
    assert watched.tracking.parent is not None
    assert watched.tracker.client.get_run(watched.tracking.parent.run_id).info.status == "FINISHED"


def test_a_run_that_ends_before_the_network_logs_none(watched: Watched) -> None:
    watched.tell(RunBegan(settings=RECORDED))
    artifacts = watched.made(DEEPLAB.name)
    del artifacts["segmenter"]
    watched.end(artifacts)
    assert MODEL_TAG not in watched.child().data.tags


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_run_that_fails_after_the_network_logs_none(watched: Watched, interrupted: bool) -> None:
    watched.tell(RunBegan(settings=RECORDED))
    watched.made(DEEPLAB.name)
    watched.tell(RunFailed(interrupted=interrupted))
    assert MODEL_TAG not in watched.child().data.tags
