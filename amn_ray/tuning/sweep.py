"""The driver of a study, under Ray Tune: each trial is a function that calls the pipeline's own driver.

Trials share what they have in common through the store, where an artifact is made once (see claims.py). Ray Tune's
state lies in the study's folder `<store>/studies/<name>-<fingerprint>/`: the same command goes on after a crash.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf
from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from amn_ray import config, pipeline
from amn_ray.artifacts import Store, fingerprint, git_commit
from amn_ray.claims import claimed
from amn_ray.cluster import Cluster
from amn_ray.config import GROUPS, PipelineConfig, SweepConfig, TrackingConfig, flat
from amn_ray.errors import RequestError, RunError
from amn_ray.reporting.console import say
from amn_ray.tracking import Tracker
from amn_ray.tuning import results, study
from amn_ray.tuning.probe import EPOCH, OBJECTIVE, AmnWatch
from amn_ray.tuning.study import StudyConfig, Trial

STATE = "tune"
TRIAL = "trial"
TRIAL_CPUS = 0.01
"""Of the function that drives a trial: it waits. (Ray Tune refuses 0.)"""


@dataclass(frozen=True)
class Plan:
    """What the driver tells its trials."""

    study: StudyConfig
    trials: Sequence[Trial]
    """Of a grid; empty for a sampled study."""
    composed: Mapping[str, DictConfig]
    """The configurations, by label, of a grid; of a sampled study the one under ""."""
    seed: int
    at_once: int = 1
    run_id: str = ""
    """Of the study in MLflow."""

    def trial(self, chosen: Mapping[str, Any]) -> Trial:
        """What Ray Tune chose."""
        return self.trials[chosen[TRIAL]] if self.trials else study.sample(self.study, chosen, self.seed)

    def pipeline(self, trial: Trial) -> PipelineConfig:
        """The configuration of a trial.

        Raises:
            RequestError: sampled values contradict each other.
        """
        if self.trials:
            return config.load(self.composed[trial.label]).pipeline()
        composed = self.composed[""].copy()
        for key, value in trial.settings.items():
            OmegaConf.update(composed, key, value)
        return config.load(composed).pipeline()


def sweep(
    settings: SweepConfig, given: Sequence[str], compose: Callable[[Sequence[str]], DictConfig]
) -> results.StudyResult:
    """Run a study, or what is left of it; returns its trials, which are also written to its folder.

    Args:
        settings: the study, and what its pipelines have in common.
        given: the overrides of the command line.
        compose: further overrides -> the configuration of a trial.

    Raises:
        RequestError: the study asks for what cannot be done (checked before anything is computed).
        RunError: trials failed; all others have been run.
    """
    plan = _plan(settings, given, compose)
    store = Store.open(settings.store)
    splits = pipeline.list_splits(settings)
    identity = fingerprint(
        settings.study,
        settings.seeds,
        dataclasses.replace(settings.pipeline(), store=""),
        [split.identity() for split in splits.values()],
    )
    name = f"{settings.study.name}-{identity}"
    folder = Path(store.root) / "studies" / name
    cluster = Cluster(settings.cluster)
    plan = dataclasses.replace(plan, at_once=cluster.trials_at_once())
    tracker = Tracker(settings.tracking, store)
    with (
        claimed(
            store, f"study-{name}", is_done=lambda: False, on_wait=lambda: say("study", "waits: it is running already")
        ),
        tracker.run(f"study {settings.study.name}", identity, {"git_commit": git_commit()}) as parent,
    ):
        parent.params(
            {f"study.{key}": value for key, value in flat(settings.study).items()} | {"seeds": settings.seeds}
        )
        parent.tags({"study": name, "question": settings.study.question, "store": store.root})
        plan = dataclasses.replace(plan, run_id=parent.run_id)
        total = len(plan.trials) or settings.study.num_trials or 0
        say("study", f"{name}: {total} trials, {plan.at_once} at a time")
        progress = Progress(plan, settings.tracking, settings.store, total)
        try:
            rows = _fit(plan, settings, folder, progress)
        except BaseException:  # also Ctrl-C: the trials' processes end with ours, and cannot say so
            tracker.end_running(parent.run_id)
            raise
        result = results.write(rows, settings.study, folder)
        for path in result.files:
            parent.artifact(path)
        parent.metrics(result.metrics)
    results.tell(result, settings.study, folder)
    if result.failed:
        raise RunError(
            f"{len(result.failed)} of {total} trials failed, the first with: {result.failed[0]}; the same command with "
            "retry_failed=true runs them again"
        )
    return result


def _plan(settings: SweepConfig, given: Sequence[str], compose: Callable[[Sequence[str]], DictConfig]) -> Plan:
    """The trials, each of which has been composed once.

    Raises:
        RequestError: one of them has no valid configuration, or does not report what the study asks for.
    """
    asked, sampled = settings.study, settings.study.search != "grid"
    trials = study.corners(asked, settings.seeds[0]) if sampled else study.grid(asked, settings.seeds)
    study.check_keys(asked, given, groups=GROUPS)
    composed: dict[str, DictConfig] = {}
    reported: set[str] = set()
    for trial in trials:
        try:
            composed[trial.label] = compose(trial.overrides)
            pipe = config.load(composed[trial.label]).pipeline()
        except RequestError as error:
            raise RequestError(f"trial {trial.label!r} of the study: {error}") from error
        known = pipeline.metric_names(pipe)
        reported |= known
        check_metric("study.metric", asked.metric, known, f"in trial {trial.label!r}")
    for column in asked.columns:
        check_metric("study.columns", column, reported, "in any trial")
    return Plan(
        study=asked,
        trials=() if sampled else trials,
        composed={"": compose([f"seed={settings.seeds[0]}"])} if sampled else composed,
        seed=settings.seeds[0],
    )


def check_metric(key: str, metric: str, known: set[str], where: str) -> None:
    """Refuse a metric that is not reported.

    Raises:
        RequestError: with the nearest one that is.
    """
    if metric not in known:
        near = difflib.get_close_matches(metric, sorted(known), n=1)
        hint = f", did you mean {near[0]}" if near else f"; there are {', '.join(sorted(known))}"
        raise RequestError(f"{key}={metric}: no step reports it {where}{hint}")


def _fit(plan: Plan, settings: SweepConfig, folder: Path, progress: Progress) -> list[results.Row]:
    """Run what is left, under Ray Tune."""
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")  # what a crash can cost
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # MLflow has it all
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends a study as it ends a pipeline
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths of the user are relative to his own folder
    trainable = tune.with_resources(tune.with_parameters(_trial, plan=plan), _resources(settings))
    space = _param_space(plan)
    # Ray Tune keeps in its state how many trials run at once: with another number, a new one is begun, for which what
    # the trials have made so far is there already.
    state = folder / f"{STATE}-{plan.at_once}"
    tuner = _restored(state, trainable, space, retry_failed=settings.retry_failed) or tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=OBJECTIVE,
            mode=plan.study.mode,
            search_alg=_search(plan),
            scheduler=_scheduler(plan.study, settings.amn.epochs),
            num_samples=plan.study.num_trials or 1,
            max_concurrent_trials=plan.at_once if plan.study.search == "optuna" else None,
            # A new process costs seconds; but only one whose trial ended by itself can be used again.
            reuse_actors=plan.study.asha is None,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=state.name, storage_path=str(folder), verbose=0, callbacks=[progress, JsonLoggerCallback()]
        ),
    )
    found = sorted(tuner.fit(), key=lambda result: str(result.path))  # one order, also after a restart
    return [results.Row.of(plan.trial(result.config), result) for result in found]


def _restored(state: Path, trainable: Any, space: dict[str, Any], *, retry_failed: bool) -> tune.Tuner | None:
    """The study as it was when its driver ended; None if there is nothing, or nothing readable."""
    if not tune.Tuner.can_restore(str(state)):
        return None
    try:
        return tune.Tuner.restore(str(state), trainable, param_space=space, restart_errored=retry_failed)
    except Exception as error:  # a file that was half written when the driver was killed fails in many ways
        say("study", f"begins anew, Ray Tune's state cannot be read ({error}); what its trials made is there already")
        shutil.rmtree(state)
        return None


def _param_space(plan: Plan) -> dict[str, Any]:
    if plan.trials:
        return {TRIAL: tune.grid_search(list(range(len(plan.trials))))}
    space: dict[str, Any] = {}
    for key, values in plan.study.space.items():
        if isinstance(values, list):
            space[key] = tune.choice(list(range(len(values))))
            continue
        ((kind, (low, high)),) = values.items()
        if kind == "integers":
            space[key] = tune.randint(low, high + 1)
        else:
            space[key] = tune.loguniform(low, high) if kind == "log_uniform" else tune.uniform(low, high)
    return space


def _search(plan: Plan) -> Any:
    """Samples are drawn with the study's own seed."""
    if plan.study.search == "optuna":
        return OptunaSearch(seed=plan.seed)
    return BasicVariantGenerator(random_state=plan.seed, max_concurrent=plan.at_once)


def _scheduler(asked: StudyConfig, epochs: int) -> ASHAScheduler | None:
    if asked.asha is None:
        return None
    return ASHAScheduler(
        time_attr=EPOCH,
        max_t=epochs + 1,  # the last report is the full evaluation, which a trial must live to see
        grace_period=asked.asha.grace,
        reduction_factor=asked.asha.reduction,
    )


def _resources(settings: SweepConfig) -> tune.PlacementGroupFactory:
    """Of the function; its stages ask for their own. It runs where MLflow's SQLite file is, if it writes to one."""
    bundle = {"CPU": TRIAL_CPUS}
    if settings.tracking.uri is None:
        bundle[f"node:{ray.util.get_node_ip_address()}"] = 0.001
    return tune.PlacementGroupFactory([bundle])


def _trial(chosen: dict[str, Any], plan: Plan) -> None:
    """One trial, in a process of its own."""
    trial = plan.trial(chosen)
    pipe = plan.pipeline(trial)
    finished = pipeline.execute(
        pipe,
        Cluster(pipe.cluster, plan.at_once),
        name=trial.label,
        study=plan.run_id,
        watch=AmnWatch() if plan.study.asha is not None else None,
    )
    metrics = {f"{step}/{key}": value for step, values in finished.summary.items() for key, value in values.items()}
    if plan.study.metric not in metrics:
        raise RequestError(
            f"study.metric={plan.study.metric}: was not reported, so the data set has no ground truth to score by"
        )
    tune.report(
        {OBJECTIVE: metrics[plan.study.metric], EPOCH: pipe.amn.epochs + 1, "run": finished.folder.name, **metrics}
    )


class Progress(tune.Callback):
    """Tells how the trials go, and ends the MLflow runs of those that could not do it themselves."""

    def __init__(self, plan: Plan, tracking: TrackingConfig, store: str, total: int) -> None:
        self.plan = plan
        self.tracking = tracking
        self.store = store
        self.total = total

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        say("trial", f"{self.plan.trial(trial.config).label} starts")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        last = trial.last_result
        if "run" in last:
            self._end(trials, trial, f"{self.plan.study.metric} {last[OBJECTIVE]:.4f}")
            return
        self._end(
            trials,
            trial,
            f"stopped after epoch {last.get(EPOCH)}, its mIoU {last.get(OBJECTIVE, 0):.4f} is not promising",
        )
        self._kill(trial, {"stopped": "true"})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        self._end(trials, trial, "failed")
        self._kill(trial, {})

    def _end(self, trials: list[Any], trial: Any, what: str) -> None:
        ended = 1 + sum(other.is_finished() for other in trials if other is not trial)
        say("trial", f"{self.plan.trial(trial.config).label}: {what} ({ended} of {self.total})")

    def _kill(self, trial: Any, tags: dict[str, str]) -> None:
        """A process that was ended by force left its runs RUNNING."""
        tracker = Tracker(self.tracking, Store.open(self.store))
        tracker.end_running(self.plan.run_id, only=self.plan.trial(trial.config).label, tags=tags)
