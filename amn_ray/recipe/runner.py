"""Runs a plan: builds missing artifacts, each under its claim, and notifies observers."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amn_ray.core import plugins
from amn_ray.core.artifacts import TABLE, Artifact, Store
from amn_ray.core.code import code_of, other_code
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
from amn_ray.core.tables import Table
from amn_ray.nn import footprint
from amn_ray.platform import plugin_env
from amn_ray.platform.claims import claimed
from amn_ray.platform.cluster import Cluster
from amn_ray.recipe.made import check_made
from amn_ray.recipe.plan import Plan, Planned, Scoring
from amn_ray.stages.groups import MapsConfig
from amn_ray.stages.stage import Context, Stage


@dataclass(frozen=True)
class Made:
    """A complete artifact."""

    artifact: Artifact
    manifest: Mapping[str, Any]
    reused: bool
    other_code: Sequence[str] = ()
    """See StepEnded."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Everything needed to build one artifact."""

    step: str
    """The step's name, for messages."""
    stage: Stage[Any]
    settings: Any
    inputs: Mapping[str, Artifact]
    output: Artifact
    modules: Sequence[str]
    """Modules whose code, with all that they import, makes it."""
    since: float = 0
    """Older artifacts are rebuilt."""


BEGUN = "begun.json"
"""The file of an unfinished artifact that records which code started it."""
AS_IT_IS: Mapping[str, Any] = {"metrics": {}, "seconds": 0.0}
"""The manifest of a step whose result is another step's."""


class Runner:
    """Builds the artifacts of one plan."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        cluster: Cluster,
        observers: Sequence[Observer],
        tracking_uri: str,
        since: float | None = None,
    ) -> None:
        """Args:
        plan: the steps to complete.
        store: holds their artifacts.
        cluster: where they run.
        observers: are notified of everything, in this order.
        tracking_uri: of MLflow, which all nodes must reach.
        since: the start of the command: older artifacts of steps in `rebuild` are rebuilt. None: now.
        """
        self.plan = plan
        self.store = store
        self.cluster = cluster
        self.observers = observers
        self.tracking_uri = tracking_uri
        self.since = time.time() if since is None else since
        self.artifacts: dict[str, Artifact] = {}
        self.scores: dict[str, Artifact] = {}
        self.manifests: dict[str, Mapping[str, Any]] = {}
        self._ids: dict[str, str] = {}
        """Commit ids by fingerprint."""
        self._checked: set[str] = set()

    def run(self) -> RunEnded:
        """Run all steps whose artifacts are missing or stale.

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
        """Notify all observers."""
        for observer in self.observers:
            observer.notify(event)

    def _step(self, planned: Planned) -> None:
        step = planned.step
        settings = {} if step.stage is None else dict(_flat(step.stage.identity(planned.settings)))
        self.notify(StepBegan(step=step.name, artifact=planned.artifact, settings=settings))
        if step.stage is None:
            assert step.same_as is not None
            made = Made(self.artifacts[step.same_as], AS_IT_IS, reused=True)
        else:
            inputs = {part: self.artifacts[source] for part, source in step.inputs.items()}
            since = self.since if step.name in self.plan.config.rebuild else 0
            work = Work(
                step=step.name,
                stage=step.stage,
                settings=planned.settings,
                inputs=inputs,
                output=planned.artifact,
                modules=planned.modules,
                since=since,
            )
            with step.named_errors():
                made = self._made(work)
        self.artifacts[step.name], self.manifests[step.name] = made.artifact, made.manifest
        for sentence in (*made.manifest.get("warnings", ()), *self._size_warnings(made.manifest)):
            self.notify(Warned(step=step.name, sentence=sentence))
        self.notify(
            StepEnded(
                step=step.name,
                artifact=made.artifact,
                reused=made.reused,
                manifest=made.manifest,
                other_code=made.other_code,
            )
        )

    def _size_warnings(self, manifest: Mapping[str, Any]) -> list[str]:
        """A warning, before hours are spent, if the largest image may need too much memory."""
        if "largest" not in manifest:
            return []
        warning = footprint.warning(manifest["largest"], self._scales(), self.plan.config.backbone.name)
        return [] if warning is None else [warning]

    def _scales(self) -> list[float]:
        """All scales at which maps are computed."""
        settings = [planned.settings for planned in self.plan if isinstance(planned.settings, MapsConfig)]
        return [scale for one in settings for scale in one.scales] or [1.0]

    def _score(self, planned: Planned, score: Scoring) -> None:
        opened = {artifact.fingerprint: artifact for artifact in self.artifacts.values()}
        inputs = {part: opened[artifact.fingerprint] for part, artifact in score.inputs.items()}
        work = Work(
            step=f"{planned.name} score",
            stage=score.stage,
            settings=score.settings,
            inputs=inputs,
            output=score.artifact,
            modules=score.modules,
        )
        made = self._made(work)
        self.scores[planned.name], self.manifests[f"{planned.name}_score"] = made.artifact, made.manifest
        self.notify(
            Scored(step=planned.name, artifact=made.artifact, manifest=made.manifest, other_code=made.other_code)
        )

    def _summary(self) -> dict[str, dict[str, float]]:
        summary = {}
        for planned in self.plan:
            manifest = self.manifests[planned.name]
            own = {} if planned.step.stage is None else manifest["metrics"] | {"seconds": manifest["seconds"]}
            scored = self.manifests.get(f"{planned.name}_score", {"metrics": {}})["metrics"]
            summary[planned.name] = scored | own
        return summary | {name: summary[step] for name, step in self.plan.finals().items()}

    def _made(self, work: Work) -> Made:
        output = work.output
        ids = {part: self._ids[artifact.fingerprint] for part, artifact in work.inputs.items()}
        with claimed(
            self.store,
            f"{output.stage}-{output.fingerprint}",
            is_done=lambda: output.current(ids, work.since) is not None,
            on_wait=lambda: self.notify(StepWaits(step=work.step, artifact=output)),
        ) as check:
            manifest, other = output.current(ids, work.since), []
            reused = manifest is not None
            if manifest is not None:
                work.stage.check_reuse(work.settings, manifest)
                other = other_code(manifest["code"], *work.modules)
            else:
                self._check_cluster()
                self.notify(StepIsMade(step=work.step, artifact=output))
                manifest = self._make(work, check)
        self._ids[output.fingerprint] = manifest["id"]
        return Made(output.opened(), manifest, reused=reused, other_code=other)

    def _make(self, work: Work, check: Callable[[], None]) -> dict[str, Any]:
        output, stage = work.output, work.stage
        if output.complete:
            output = output.successor()
        output = dataclasses.replace(output, check=check)
        code = code_of(*work.modules)
        self._record_start(work.step, output, code)
        started, spilled = time.monotonic(), self.cluster.spilled_gb()
        result = stage.run(work.settings, work.inputs, output, self._context(work.step, stage, work.settings))
        check_made(work.step, stage, output, result)
        if output.exists(TABLE):
            self.cluster.run_remote(Table.write_index, output.fresh_table())
        spilled = max(0.0, self.cluster.spilled_gb() - spilled)  # a node that died takes its count with it
        if spilled > 0.01:
            sentence = (
                f"{spilled:.1f} GiB of objects did not fit into memory and went to disk and back; raise "
                "cluster.object_store_gb (a local Ray), or start the nodes with a larger --object-store-memory"
            )
            self.notify(Warned(step=work.step, sentence=sentence))
        output.remove(BEGUN)
        return output.commit(
            config=stage.identity(work.settings),
            inputs=work.inputs,
            code=code,
            seconds=time.monotonic() - started,
            result={"gpus": 0, "spilled_gb": round(spilled, 3), **result},
        )

    def _record_start(self, step: str, output: Artifact, code: Mapping[str, str]) -> None:
        """Record which code starts the work; the output of a failed attempt is kept."""
        begun = json.loads(output.read(BEGUN)) if output.exists(BEGUN) else code
        if changed := sorted(name for name in code.keys() | begun.keys() if code.get(name) != begun.get(name)):
            shown = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
            sentence = f"resumes work of other code ({shown}); remove {output.url} to start over"
            self.notify(Warned(step=step, sentence=sentence))
        output.write(BEGUN, json.dumps(dict(code)).encode())

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
        """Before anything is built, check all nodes. (If all artifacts exist, Ray is not needed.)"""
        nodes = self.cluster.nodes()
        if not nodes <= self._checked:
            self.cluster.check_tracking(self.tracking_uri)
            self.cluster.check_shared(self.store, "store")
            self.cluster.check_everywhere(missing_modules, working_only=True)
            self.cluster.check_everywhere(plugin_env.not_importable, plugins.modules(), working_only=True)
            self._checked |= nodes


def _flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """JSON flattened to dotted keys."""
    for key, value in plain.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
