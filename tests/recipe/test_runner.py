"""A plan that is run: what is made, what is used again, what observers are told. Stages are doubles, without Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amn_ray.core.artifacts import MODEL, TABLE, Artifact, Store
from amn_ray.core.errors import RequestError, RunError
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
    Warned,
)  # fmt: skip
from amn_ray.data.images import MASK_SCHEMA, mask_row
from amn_ray.recipe.config import PipelineConfig
from amn_ray.recipe.plan import Plan, Planned, Scoring
from amn_ray.recipe.runner import Runner
from amn_ray.recipe.steps import Step
from amn_ray.stages.stage import Context, Makes, Result, Stage


class Alone:
    """A cluster of this process."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def nodes(self) -> set[str]:
        self.asked.append("nodes")
        return {"here"}

    def check_tracking(self, uri: str) -> None:
        self.asked.append(uri)

    def check_shared(self, store: Store, key: str) -> None: ...

    def check_everywhere(self, *arguments: Any, **settings: Any) -> None: ...

    def spilled_gb(self) -> float:
        return 0.0

    def run_remote(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


class Told(Observer):
    """Keeps all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)

    def made(self) -> list[str]:
        """The steps that were made, and scores."""
        return [event.step for event in self.events if isinstance(event, StepIsMade)]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Pipeline:
    """images → network → masks, which are scored; seeds are the masks themselves."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.content = 0
        """Of what is made: each artifact holds the number of its making."""
        self.before: dict[str, Callable[[Artifact], None]] = {}
        """What happens in a stage before it has made anything."""

    def _stage(self, name: str, makes: Makes, needs: tuple[str, ...]) -> Stage[Any]:
        def run(config: Any, inputs: Mapping[str, Artifact], output: Artifact, context: Context) -> Result:
            self.content += 1
            self.before.get(name, lambda output: None)(output)
            if makes == "weights":
                output.write(MODEL, str(self.content).encode())
                return {"metrics": {"loss": 0.5, "images_per_second": 1.0}, "warnings": ["it is slow"]}
            row = {"image_id": "a", "value": self.content}
            table = pa.Table.from_pylist([row])
            if makes == "masks":
                rows = [mask_row("a", np.full((2, 2), self.content, np.uint8))]
                table = pa.Table.from_pylist(rows, schema=MASK_SCHEMA)
            Path(output.at(TABLE)).mkdir(parents=True, exist_ok=True)
            pq.write_table(table, output.at(f"{TABLE}/0.parquet"))
            return {"rows": 1, "metrics": {"miou": 0.25}}

        return Stage(name=name, version=1, config=dict, makes=makes, needs=needs, run=run)

    def plan(self, *rebuild: str) -> Plan:
        steps = [
            Step(name="images", stage=self._stage("images", "table", ())),
            Step(name="network", stage=self._stage("network", "weights", ("images",)), inputs={"images": "images"}),
            Step(
                name="masks",
                stage=self._stage("masks", "masks", ("images", "network")),
                inputs={"images": "images", "network": "network"},
            ),
            Step(name="seeds", stage=None, same_as="masks"),
        ]
        planned: dict[str, Planned] = {}
        for step in steps:
            inputs = {part: planned[source].artifact for part, source in step.inputs.items()}
            artifact = self.store.artifact(step.name, 1, {}, inputs) if step.stage else planned["masks"].artifact
            score = None
            if step.name == "masks":
                sources = {"images": planned["images"].artifact, "masks": artifact}
                score = Scoring(
                    stage=self._stage("score", "table", ("images", "masks")),
                    settings=None,
                    inputs=sources,
                    artifact=self.store.artifact("score", 1, {}, sources),
                    chosen=frozenset(),
                    metrics=("miou",),
                )
            planned[step.name] = Planned(
                step=step, settings=None, inputs=inputs, artifact=artifact, chosen=frozenset(), score=score
            )
        return Plan(PipelineConfig(rebuild=list(rebuild)), tuple(planned.values()))

    def run(self, *rebuild: str, cluster: Alone | None = None, since: float | None = None) -> tuple[Told, RunEnded]:
        told = Told()
        cluster = Alone() if cluster is None else cluster
        runner = Runner(self.plan(*rebuild), self.store, cluster, [told], "sqlite://", since)  # type: ignore[arg-type]
        return told, runner.run()

    def numbers(self, ended: RunEnded) -> dict[str, int]:
        """Of the making of each artifact, as a reader finds it who knows its fingerprint alone."""
        found = {}
        for step, artifact in [*ended.artifacts.items(), *(("score", score) for score in ended.scores.values())]:
            home = Artifact(artifact.fs, artifact.home.path, artifact.stage, artifact.fingerprint).opened()
            assert home == artifact
            if artifact.exists(MODEL):
                found[step] = int(home.read(MODEL))
            else:
                rows = home.fresh_table().read(["present" if step in ("masks", "seeds") else "value"]).to_pylist()
                found[step] = rows[0]["present"][0] if step in ("masks", "seeds") else rows[0]["value"]
        return found


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(Store.open(str(tmp_path)))


FIRST = {"images": 1, "network": 2, "masks": 3, "seeds": 3, "score": 4}


def test_a_run_makes_each_step_in_order_and_tells_it(pipeline: Pipeline) -> None:
    told, ended = pipeline.run()
    kinds = [type(event) for event in told.events]
    assert kinds == [
        RunBegan,
        StepBegan, StepIsMade, StepEnded,
        StepBegan, StepIsMade, Warned, StepEnded,
        StepBegan, StepIsMade, StepEnded, StepIsMade, Scored,
        StepBegan, StepEnded,
        RunEnded,
    ]  # fmt: skip
    assert told.made() == ["images", "network", "masks", "masks score"]
    assert pipeline.numbers(ended) == FIRST
    assert ended.artifacts["seeds"] == ended.artifacts["masks"]
    assert ended.manifests["masks"]["inputs"] == {
        name: ended.artifacts[name].fingerprint for name in ("images", "network")
    }
    seconds = {step: metrics.pop("seconds", None) for step, metrics in ended.summary.items()}
    assert ended.summary == {
        "images": {"miou": 0.25}, "network": {"loss": 0.5, "images_per_second": 1.0}, "masks": {"miou": 0.25},
        "seeds": {},
    }  # fmt: skip
    assert seconds["seeds"] is None, "nothing was made"


def test_what_is_there_is_used_again_without_asking_a_cluster(pipeline: Pipeline) -> None:
    pipeline.run()
    cluster = Alone()
    told, ended = pipeline.run(cluster=cluster)
    assert told.made() == []
    assert all(event.reused for event in told.of(StepEnded))
    assert [event.sentence for event in told.of(Warned)] == ["it is slow"], "told again"
    assert pipeline.numbers(ended) == FIRST
    assert cluster.asked == []


def test_the_nodes_are_checked_once_before_anything_is_made(pipeline: Pipeline) -> None:
    cluster = Alone()
    pipeline.before["images"] = lambda output: cluster.asked.append("images are made")
    pipeline.run(cluster=cluster)
    assert cluster.asked[:3] == ["nodes", "sqlite://", "images are made"]
    assert cluster.asked.count("sqlite://") == 1


def test_a_step_that_is_rebuilt_is_made_anew_with_all_that_is_made_of_it(pipeline: Pipeline) -> None:
    _, before = pipeline.run()
    told, ended = pipeline.run("network")
    assert told.made() == ["network", "masks", "masks score"]
    assert pipeline.numbers(ended) == {"images": 1, "network": 5, "masks": 6, "seeds": 6, "score": 7}
    assert {step: artifact.fingerprint for step, artifact in ended.artifacts.items()} == {
        step: artifact.fingerprint for step, artifact in before.artifacts.items()
    }
    assert not before.artifacts["network"].exists(MODEL), "what was replaced is gone"
    again, ended = pipeline.run()
    assert again.made() == [], "once per command"
    assert pipeline.numbers(ended)["network"] == 5
    third, ended = pipeline.run("masks")
    assert third.made() == ["masks", "masks score"]
    assert pipeline.numbers(ended) == {"images": 1, "network": 5, "masks": 8, "seeds": 8, "score": 9}


def test_what_another_process_has_made_anew_for_the_same_command_is_used(pipeline: Pipeline) -> None:
    """The trials of a study are given at the same time."""
    _, first = pipeline.run()
    since = first.manifests["masks"]["committed"] + 1e-6
    told, _ = pipeline.run("network", since=since)
    assert told.made() == ["network", "masks", "masks score"]
    other, ended = pipeline.run("network", since=since)
    assert other.made() == []
    assert pipeline.numbers(ended)["network"] == 5


def test_what_was_there_stays_until_its_successor_is_whole(pipeline: Pipeline) -> None:
    _, before = pipeline.run()

    def die(output: Artifact) -> None:
        output.write("half", b"")
        raise RunError("no more memory")

    pipeline.before["network"] = die
    with pytest.raises(RunError, match="no more memory"):
        pipeline.run("network")
    assert before.artifacts["network"].read(MODEL) == b"2"
    halves: list[bool] = []
    pipeline.before["network"] = lambda output: halves.append(output.exists("half"))
    told, ended = pipeline.run("network")
    assert halves == [True], "it goes on where the first try ended"
    assert told.made() == ["network", "masks", "masks score"]
    assert ended.artifacts["network"].read(MODEL) == b"6"


@pytest.mark.parametrize(
    ("error", "interrupted"),
    [
        (RunError("it failed"), False),
        (ValueError("a bug"), False),
        (KeyboardInterrupt(), True),
        (SystemExit(143), True),
    ],
)
def test_an_error_is_told_to_all_observers_and_raised(
    pipeline: Pipeline, error: BaseException, interrupted: bool
) -> None:
    def fail(output: Artifact) -> None:
        raise error

    pipeline.before["network"] = fail
    told = Told()
    with pytest.raises(type(error)):
        Runner(pipeline.plan(), pipeline.store, Alone(), [told], "").run()  # type: ignore[arg-type]
    assert told.events[-1] == RunFailed(interrupted=interrupted)
    assert not told.of(RunEnded)
    pipeline.before.clear()
    _, ended = pipeline.run()
    assert pipeline.numbers(ended) == {"images": 1, "network": 3, "masks": 4, "seeds": 4, "score": 5}
    assert not list(Path(pipeline.store.path).glob("claims/*"))


def test_an_observer_that_fails_fails_the_run(pipeline: Pipeline) -> None:
    class Full(Observer):
        def notify(self, event: Event) -> None:
            if isinstance(event, RunEnded):
                raise OSError("no space left")

    told = Told()
    with pytest.raises(OSError, match="no space left"):
        Runner(pipeline.plan(), pipeline.store, Alone(), [told, Full()], "").run()  # type: ignore[arg-type]
    assert told.events[-1] == RunFailed(interrupted=False)


def with_stage(plan: Plan, name: str, **changed: Any) -> Plan:
    """The plan with other properties of the stage of a step."""

    def replaced(steps: Iterable[Planned]) -> Iterable[Planned]:
        for planned in steps:
            if planned.name == name:
                assert planned.step.stage is not None
                stage = dataclasses.replace(planned.step.stage, **changed)
                planned = dataclasses.replace(planned, step=dataclasses.replace(planned.step, stage=stage))
            yield planned

    return Plan(plan.config, tuple(replaced(plan)))


def test_a_stage_may_refuse_what_is_there(pipeline: Pipeline) -> None:
    pipeline.run()

    def refuse(settings: Any, manifest: Mapping[str, Any]) -> None:
        assert manifest["rows"] == 1
        raise RequestError("dataset.max_bad_fraction allows fewer")

    plan = with_stage(pipeline.plan(), "images", check_reuse=refuse)
    with pytest.raises(RequestError, match="allows fewer"):
        Runner(plan, pipeline.store, Alone(), [], "").run()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (None, "returned None, expected a dict"),
        ({"rows": 1}, "expected a dict with a dict of numbers as `metrics`"),
        ({"metrics": {"miou": np.float32(1)}}, "returned a result that is not JSON"),
        ({"metrics": {}}, f"makes weights, but wrote no {MODEL}"),
    ],
)
def test_a_stage_that_makes_something_else_than_it_says_is_told(pipeline: Pipeline, result: Any, told: str) -> None:
    plan = with_stage(pipeline.plan(), "network", run=lambda config, inputs, output, context: result)
    with pytest.raises(RunError, match=rf"^network: the stage network .*{told}"):
        Runner(plan, pipeline.store, Alone(), [], "").run()  # type: ignore[arg-type]
    _, ended = pipeline.run()
    assert ended.artifacts["network"].exists(MODEL), "the same command goes on"
