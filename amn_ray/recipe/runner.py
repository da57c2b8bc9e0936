"""Runs a plan: makes what is missing, each artifact under its claim, while observers watch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amn_ray.core.artifacts import Artifact, Store
from amn_ray.core.events import (
    Event,
    Observer,
    RunBegan,
    RunEnded,
    RunFailed,
    Scored,
    StepBegan,
    StepEnded,
    StepIsMade,
    StepWaits,
    Warned,
)  # fmt: skip
from amn_ray.core.provenance import missing_modules
from amn_ray.core.settings import flat
from amn_ray.nn import footprint
from amn_ray.platform.claims import claimed
from amn_ray.platform.cluster import Cluster
from amn_ray.recipe.plan import Plan, Planned, Scoring
from amn_ray.stages.groups import MapsConfig
from amn_ray.stages.score.stage import SCORE
from amn_ray.stages.stage import Context, Stage

AS_IT_IS: Mapping[str, Any] = {"metrics": {}, "seconds": 0.0}
"""The manifest of a step that is what another one has made."""


class Runner:
    """Makes the artifacts of one plan."""

    def __init__(
        self, plan: Plan, store: Store, cluster: Cluster, observers: Sequence[Observer], tracking_uri: str
    ) -> None:
        """`tracking_uri` is where all nodes must reach MLflow."""
        self.plan = plan
        self.store = store
        self.cluster = cluster
        self.observers = observers
        self.tracking_uri = tracking_uri
        self.artifacts: dict[str, Artifact] = {}
        self.scores: dict[str, Artifact] = {}
        self.manifests: dict[str, Mapping[str, Any]] = {}
        self._checked: set[str] = set()

    def run(self) -> RunEnded:
        """Make all steps that are not there.

        Raises:
            RequestError: the request cannot be met.
            RunError: a stage failed.
        """
        self.notify(RunBegan(settings=flat(self.plan.config)))
        try:
            for planned in self.plan:
                self._step(planned)
                if planned.score is not None:
                    self._score(planned, planned.score)
            ended = RunEnded(
                artifacts=self.artifacts, scores=self.scores, manifests=self.manifests, summary=self._summary()
            )
            self.notify(ended)
        except BaseException as error:
            self.notify(RunFailed(interrupted=not isinstance(error, Exception)))
            raise
        return ended

    def notify(self, event: Event) -> None:
        """Tell all observers."""
        for observer in self.observers:
            observer.notify(event)

    def _step(self, planned: Planned) -> None:
        step = planned.step
        settings = {} if step.stage is None else dict(_flat(step.stage.identity(planned.settings)))
        self.notify(StepBegan(step=step.name, artifact=planned.artifact, settings=settings))
        reused, manifest = True, AS_IT_IS
        if step.stage is not None:
            with step.named_errors():
                reused, manifest = self._made(step.name, step.stage, planned.settings, planned.inputs, planned.artifact)
        self.artifacts[step.name], self.manifests[step.name] = planned.artifact, manifest
        for sentence in (*manifest.get("warnings", ()), *self._of_size(manifest)):
            self.notify(Warned(step=step.name, sentence=sentence))
        self.notify(StepEnded(step=step.name, artifact=planned.artifact, reused=reused, manifest=manifest))

    def _of_size(self, manifest: Mapping[str, Any]) -> list[str]:
        """A sentence, before hours are spent, if the memory may not be enough for the largest image."""
        if "largest" not in manifest:
            return []
        warning = footprint.warning(manifest["largest"], self._scales(), self.plan.config.backbone.name)
        return [] if warning is None else [warning]

    def _scales(self) -> list[float]:
        """All at which maps are made."""
        settings = [planned.settings for planned in self.plan if isinstance(planned.settings, MapsConfig)]
        return [scale for one in settings for scale in one.scales] or [1.0]

    def _score(self, planned: Planned, score: Scoring) -> None:
        _, manifest = self._made(f"{planned.name} score", SCORE, score.settings, score.inputs, score.artifact)
        self.scores[planned.name], self.manifests[f"{planned.name}_score"] = score.artifact, manifest
        self.notify(Scored(step=planned.name, artifact=score.artifact, manifest=manifest))

    def _summary(self) -> dict[str, dict[str, float]]:
        summary = {}
        for planned in self.plan:
            manifest = self.manifests[planned.name]
            own = {} if planned.step.stage is None else manifest["metrics"] | {"seconds": manifest["seconds"]}
            scored = self.manifests.get(f"{planned.name}_score", {"metrics": {}})["metrics"]
            summary[planned.name] = scored | own
        return summary

    def _made(
        self, step: str, stage: Stage[Any], settings: Any, inputs: Mapping[str, Artifact], output: Artifact
    ) -> tuple[bool, Mapping[str, Any]]:
        """Whether it was there already, and its manifest."""
        with claimed(
            self.store,
            f"{output.stage}-{output.fingerprint}",
            is_done=lambda: output.complete,
            on_wait=lambda: self.notify(StepWaits(step=step, artifact=output)),
        ) as check:
            if output.complete:
                manifest = output.manifest()
                stage.check_reuse(settings, manifest)
                return True, manifest
            self._check_cluster()
            self.notify(StepIsMade(step=step, artifact=output))
            started, spilled = time.monotonic(), self.cluster.spilled_gb()
            output = dataclasses.replace(output, check=check)
            result = stage.run(settings, inputs, output, self._context(step, stage, settings))
            spilled = max(0.0, self.cluster.spilled_gb() - spilled)  # a node that died takes its count with it
            if spilled > 0.01:
                sentence = (
                    f"{spilled:.1f} GiB of objects did not fit into memory and went to disk and back; raise "
                    "cluster.object_store_gb (a local Ray), or start the nodes with a larger --object-store-memory"
                )
                self.notify(Warned(step=step, sentence=sentence))
            manifest = output.commit(
                config=stage.identity(settings),
                inputs=inputs,
                seconds=time.monotonic() - started,
                result={"gpus": 0, "spilled_gb": round(spilled, 3), **result},
            )
            return False, manifest

    def _context(self, step: str, stage: Stage[Any], settings: Any) -> Context:
        def warn(sentence: str) -> None:
            self.notify(Warned(step=step, sentence=sentence))

        if not stage.trains:
            return Context(cluster=self.cluster, warn=warn)
        artifacts = self.artifacts | {f"{step}_score": artifact for step, artifact in self.scores.items()}
        probes = [observer.probe(step, settings, artifacts) for observer in self.observers]
        return Context(
            cluster=self.cluster,
            warn=warn,
            callbacks=[callback for observer in self.observers for callback in observer.callbacks(step)],
            probe=next((probe for probe in probes if probe is not None), None),
        )

    def _check_cluster(self) -> None:
        """Before anything is made: whether all nodes can do their part. (Where all is there, Ray is not needed.)"""
        nodes = self.cluster.nodes()
        if not nodes <= self._checked:
            self.cluster.check_tracking(self.tracking_uri)
            self.cluster.check_shared(self.store, "store")
            self.cluster.check_everywhere(missing_modules, working_only=True)
            self._checked |= nodes


def _flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """JSON as one level of dotted keys."""
    for key, value in plain.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
