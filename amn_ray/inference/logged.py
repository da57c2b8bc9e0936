"""The observer that logs a trained segmentation network, with its CRF if any, as an MLflow model."""

from __future__ import annotations

from amn_ray.core.artifacts import MODEL, Store
from amn_ray.core.console import log
from amn_ray.core.events import Event, Observer, RunEnded
from amn_ray.inference.segmenter import Settings, opener_of, packages_of, write_model
from amn_ray.platform.tracking_config import TrackingConfig
from amn_ray.recipe import records
from amn_ray.recipe.method_names import description
from amn_ray.reporting.tracked import Tracking


class LoggedModel(Observer):
    """Logs the model after the record is written and before the MLflow run ends."""

    def __init__(self, store: Store, run: str, config: TrackingConfig, tracking: Tracking) -> None:
        self.store = store
        self.run = run
        self.config = config
        self.tracking = tracking

    def notify(self, event: Event) -> None:
        """See Observer."""
        if isinstance(event, RunEnded) and "segmenter" in event.artifacts:
            weights = event.artifacts["segmenter"]
            if opener_of(weights) is None:
                log("segmenter", f"is not logged as a model, which {weights.stage} cannot be")
                return
            (run,) = records.named(self.store, [self.run])
            settings = Settings.of(run)
            self.tracking.children["segmenter"].model(
                lambda folder: write_model(folder, settings, weights.read(MODEL)),
                self.config.register,
                self.config.alias,
                packages=packages_of(weights),
                metadata=description(run.settings),
            )
