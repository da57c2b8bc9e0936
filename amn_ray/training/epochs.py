"""Callbacks of Ray Train, once per reported epoch: a line on the console, and points of the loss curve in MLflow.

They run in Ray Train's controller, but are also sent to each worker, which does not need MLflow.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ray.train import UserCallback

from amn_ray.core.console import log, time_left


class PrintEpochs(UserCallback):
    """Prints a line per epoch."""

    def __init__(self, step: str) -> None:
        self.step = step

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """See ray.train.UserCallback; one dict of metrics per worker."""
        report = metrics[0]
        remaining = report["seconds"] * (report["epochs"] - report["epoch"])
        log(
            self.step,
            f"epoch {report['epoch']}/{report['epochs']}  loss {report['loss']:.4f}  "
            f"{report['images_per_second']:.1f} images/s"
            + (f"  {time_left(remaining)} left" if remaining >= 60 else ""),
        )


class LogEpochs(UserCallback):
    """Logs points of the loss curve to MLflow."""

    def __init__(self, uri: str, run_id: str, step: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self.step = step

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """See ray.train.UserCallback; one dict of metrics per worker."""
        points = [(int(point["step"]), point["loss"], point["time"]) for point in metrics[0]["points"]]
        # Not in this thread, which would block the training. The driver logs the whole curve again when the step ends.
        threading.Thread(target=self._log, args=(points,), daemon=True).start()

    def _log(self, points: Sequence[tuple[int, float, float]]) -> None:
        from amn_ray.platform.tracking import log_at_once  # only in the controller

        log_at_once(self.uri, self.run_id, f"{self.step}/loss_curve", points)
