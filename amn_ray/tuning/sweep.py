"""The driver of a study, under Ray Tune: each trial is a function that calls the pipeline's own driver.

Trials share common artifacts through the store, where each is made once (see claims.py). The records of the trials are
in the study's folder `<store>/studies/<name>-<fingerprint>/`, so that the same command resumes after a crash. The
fingerprint covers the trials and their data, so a study whose recipe or masks were edited is a new study.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from amn_ray.core import plugins
from amn_ray.core.artifacts import Store, fingerprint
from amn_ray.core.console import log
from amn_ray.core.errors import RequestError, RunError
from amn_ray.core.folders import Folder
from amn_ray.core.places import locate
from amn_ray.core.provenance import git_commit
from amn_ray.core.settings import flat
from amn_ray.data.listing import Summary, list_splits
from amn_ray.data.source import DatasetConfig
from amn_ray.inference.observers import run_observed
from amn_ray.platform.claims import claimed
from amn_ray.platform.cluster import LIGHT_TASK_CPUS, Cluster, ClusterConfig
from amn_ray.platform.hardware import Hardware
from amn_ray.platform.tracking import Tracker
from amn_ray.platform.tracking_config import TrackingConfig
from amn_ray.recipe import pipeline
from amn_ray.recipe.composition import GROUPS, load
from amn_ray.recipe.config import PipelineConfig
from amn_ray.recipe.method_names import deviations
from amn_ray.recipe.plan import make_plan as plan_of
from amn_ray.stages.score.stage import any_score
from amn_ray.tuning import results, study
from amn_ray.tuning.amn_probe import EPOCH, OBJECTIVE, PROBE, AmnWatch
from amn_ray.tuning.config import SweepConfig
from amn_ray.tuning.records import Record, Records
from amn_ray.tuning.study import StudyConfig, Trial

TRIAL = "trial"
TRIAL_CPUS = LIGHT_TASK_CPUS
"""CPUs of the function that drives a trial, which only waits. (Ray Tune refuses 0.)"""


@dataclass(frozen=True)
class Plan:
    """The specification of a study, sent from the driver to its trials."""

    study: StudyConfig
    trials: Sequence[Trial]
    """All trials; empty for a Bayesian search, which proposes them one by one."""
    composed: Mapping[str, DictConfig]
    """The configurations by label; for a Bayesian search, the common one under ""."""
    seed: int
    tracking: TrackingConfig
    store: str
    folder: Folder
    """The folder of the study."""
    directory: str
    """The working directory, which the user's relative paths start from."""
    splits: Mapping[str, Mapping[str, Summary]]
    """The listed datasets, by `_data_key`."""
    plugins: Sequence[str]
    """Modules that a trial's process must import."""
    given: Sequence[str]
    """The overrides of the study's own command line."""
    since: float
    """When the study was started (time.time())."""
    max_concurrency: int = 1
    is_own: bool = True
    """For both, see Cluster."""
    run_id: str = ""
    """The study's run in MLflow."""

    @property
    def records(self) -> Records:
        return Records(self.folder.folder("trials"))

    @property
    def total(self) -> int:
        return len(self.trials) or self.study.num_trials or 0

    def trial(self, chosen: Mapping[str, Any]) -> Trial:
        """The trial that Ray Tune chose."""
        return self.trials[chosen[TRIAL]] if self.trials else study.sample(self.study, chosen, self.seed)

    def pipeline(self, trial: Trial) -> PipelineConfig:
        """The configuration of a trial, with the study's tracking settings.

        Raises:
            RequestError: proposed values contradict each other.
        """
        composed = self.composed[trial.label if self.trials else ""].copy()
        if not self.trials:
            for key, value in trial.settings.items():
                OmegaConf.update(composed, key, value)
        return dataclasses.replace(load(composed, written="store").pipeline(), tracking=self.tracking)


def sweep(
    settings: SweepConfig, given: Sequence[str], compose: Callable[[Sequence[str]], DictConfig]
) -> results.StudyResult:
    """Run a study, or its remaining trials; returns the results, which are also written to its folder.

    Args:
        settings: the study, and the settings that its pipelines share.
        given: the overrides of the command line.
        compose: further overrides -> the configuration of a trial.

    Raises:
        RequestError: the study cannot be run as configured (checked before anything is computed).
        RunError: trials failed; all others have run.
    """
    plan = make_plan(settings, given, compose)
    store = Store.open(settings.store)
    tracker = Tracker(settings.tracking, store)
    name = plan.folder.name
    with (
        claimed(
            store, f"study-{name}", is_done=lambda: False, on_wait=lambda: log("study", "waits: it is already running")
        ),
        tracker.run(f"study {settings.study.name}", name, {"git_commit": git_commit()}) as parent,
    ):
        parent.params(_parameters(settings))
        parent.tags({"study": name, "question": settings.study.question, "store": store.url})
        plan = dataclasses.replace(plan, run_id=parent.run_id)
        rerun = ("running", "failed") if settings.retry_failed else ("running",)
        ended = [record for record in plan.records.all() if record.state not in rerun and record.tracked]
        if settings.rebuild:
            ended = []
        done = sum(record.repeats for record in ended)
        log("study", f"{name}: {plan.total} trials" + (f", {done} of them already ended" if ended else ""))
        if done < plan.total:
            cluster = Cluster(settings.cluster)
            cluster.check_tracking(tracker.uri)
            cluster.check_shared(store, "store")
            plan = dataclasses.replace(plan, max_concurrency=cluster.trials_at_once(), is_own=cluster.is_own)
            try:
                _fit(plan, ended, settings)
            except BaseException:  # also Ctrl-C: the trials' processes end with ours, and cannot record it
                tracker.end_running(parent.run_id)
                raise
            # All trial processes have exited.
            tracker.end_running(parent.run_id)
            if stopped := [record.trial.label for record in plan.records.all() if record.state == "stopped"]:
                tracker.end_running(parent.run_id, stopped)
        with tempfile.TemporaryDirectory() as folder:
            result = results.write(_ordered_records(plan), settings.study, Path(folder))
            for path in result.files:
                plan.folder.write(path.name, path.read_bytes())
                parent.artifact(path.name, path.read_bytes())
        parent.metrics(result.metrics)
    results.tell(result, settings.study, plan.folder)
    if result.failed:
        raise RunError(
            f"{len(result.failed)} of {plan.total} trials failed, the first with: {result.failed[0]}; the same command "
            "with retry_failed=true runs them again"
        )
    return result


def _parameters(settings: SweepConfig) -> dict[str, Any]:
    """The parameters of a study in MLflow: those that identify it, so that they never change."""
    kept = {key: value for key, value in flat(settings.study).items() if key not in ("question", "columns")}
    return {f"study.{key}": value for key, value in kept.items()} | {"seeds": settings.seeds}


def make_plan(settings: SweepConfig, given: Sequence[str], compose: Callable[[Sequence[str]], DictConfig]) -> Plan:
    """The specification of a study; each trial is composed and checked.

    Raises:
        RequestError: a trial has no valid configuration, or does not report the study's metrics.
    """
    asked, seed = settings.study, settings.seeds[0]
    study.check_keys(asked, given, groups=GROUPS)
    enumerated = {"grid": lambda: study.grid(asked, settings.seeds), "random": lambda: study.draws(asked, seed)}
    trials = enumerated[asked.search]() if asked.search in enumerated else []
    composed: dict[str, DictConfig] = {}
    reported: set[str] = set()
    parts: list[Any] = []
    splits: dict[str, dict[str, Summary]] = {}
    for trial in list(trials) or study.corners(asked, seed):
        try:
            composed[trial.label] = compose(trial.overrides(asked.seeds_of))
            pipe = load(composed[trial.label], written="store").pipeline()
            data = _data_key(pipe)
            if data not in splits:
                splits[data] = list_splits(pipe.dataset, needs_val=pipeline.needs_val(pipe))
            planned = plan_of(pipe, splits[data], Store.reading(settings.store), Hardware(has_bf16=False))
            pipeline.check_truth(planned, "study.metric", asked.metric)
            metrics = planned.metric_names()
            _check_metric("study.metric", asked.metric, metrics)
            pipeline.check_plan(planned, splits[data])
        except RequestError as error:
            raise RequestError(f"trial {trial.label!r} of the study: {error}") from error
        if "maps" in trial.settings and (words := deviations(flat(pipe))):
            renamed = dataclasses.replace(trial, group=f"{trial.group} ({', '.join(words)})")
            composed[renamed.label] = composed.pop(trial.label)
            trials[trials.index(trial)] = trial = renamed
        reported |= metrics
        if asked.asha is not None and pipe.amn.epochs != settings.amn.epochs:
            raise RequestError(
                f"study.asha: compares trials at the same epochs, but {trial.label!r} has "
                f"amn.epochs={pipe.amn.epochs} and others {settings.amn.epochs}"
            )
        content = [[split.identity(), split.truth_identity()] for split in splits[data].values()]
        parts += [trial.label, _result_settings(pipe), content]
    for column in asked.columns:
        _check_metric("study.columns", column, reported)
    searched = [asked.search, asked.space, asked.num_trials, asked.metric, asked.mode, asked.asha]
    identity = fingerprint(settings.seeds, *searched, *parts)
    return Plan(
        study=asked,
        trials=trials,
        composed=composed if trials else {"": compose([f"{study.seed_key(asked.seeds_of)}={seed}"])},
        seed=seed,
        tracking=settings.tracking,
        store=settings.store,
        # Limited to the length that any file system takes, even for letters of three bytes each.
        folder=Folder(*locate(settings.store)).folder("studies", f"{asked.name[:60]}-{identity}"),
        directory=os.getcwd(),
        splits=splits,
        plugins=settings.plugins,
        given=[override for override in given if not override.startswith("study=")],
        since=time.time(),
    )


def _data_key(pipe: PipelineConfig) -> str:
    """The settings that decide how a trial's dataset is listed."""
    return fingerprint(pipe.dataset, pipeline.needs_val(pipe))


def _result_settings(pipe: PipelineConfig) -> PipelineConfig:
    """The settings that affect a pipeline's results, except for its dataset, which is identified by its content."""
    neutral: dict[str, Any] = {"cluster": ClusterConfig(), "tracking": TrackingConfig(), "dataset": DatasetConfig()}
    return dataclasses.replace(pipe, store="", rebuild=[], **neutral)


def _check_metric(key: str, metric: str, reported: set[str]) -> None:
    if metric not in reported:
        similar = difflib.get_close_matches(metric, sorted(reported), n=1)
        hint = f", did you mean {similar[0]}" if similar else f"; steps report {', '.join(sorted(reported))}"
        raise RequestError(f"{key}={metric}: no step reports it{hint}")
    if key == "study.metric" and _uses_report_split(metric):
        raise RequestError(
            f"{key}={metric}: would choose trials by images of the report split; set "
            f"{metric.partition('/')[0]}/selection_miou, and list this one in study.columns"
        )


def _uses_report_split(metric: str) -> bool:
    """Whether a metric uses images of the report split: a score other than those of the selection split."""
    return metric.partition("/")[2] in any_score() - {"selection_miou", "selection_tau"}


def _ordered_records(plan: Plan) -> list[Record]:
    """The records of all trials, in the study's own order; a trial whose process died without a record has failed."""
    found = {record.trial.label: record for record in plan.records.all()}
    order = [trial.label for trial in plan.trials if trial.label in found] or list(found)
    dead: dict[str, Any] = {"state": "failed", "error": "its process died; see Ray's logs"}
    return [found[label] if found[label].ended else dataclasses.replace(found[label], **dead) for label in order]


# --- Ray Tune ---------------------------------------------------------------------------------------------------------


def _fit(plan: Plan, ended: Sequence[Record], settings: SweepConfig) -> None:
    """Run all trials that have not ended."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # MLflow has everything
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends a study like a pipeline
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # the last report has no probe
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # it prints tables even with verbose=0
    labels = {record.trial.label for record in ended}
    pending = [number for number, trial in enumerate(plan.trials) if trial.label not in labels]
    # Nobody reads the state that Ray Tune writes: everything needed is in the records. It is not written to the store,
    # since it holds our pickled callback, with any secrets in URLs.
    with tempfile.TemporaryDirectory() as unread:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, plan=plan), {"cpu": TRIAL_CPUS}),
            param_space={TRIAL: tune.grid_search(pending)} if plan.trials else {},
            tune_config=tune.TuneConfig(
                search_alg=BasicVariantGenerator(max_concurrent=plan.max_concurrency)
                if plan.trials
                else _optuna(plan, ended),
                scheduler=_scheduler(plan.study, settings.amn.epochs),
                num_samples=1 if plan.trials else plan.total - sum(record.repeats for record in ended),
                max_concurrent_trials=None if plan.trials else plan.max_concurrency,
                # A new process takes seconds to start, but only one whose trial ended by itself can be reused.
                reuse_actors=plan.study.asha is None,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(name="tune", storage_path=unread, verbose=0, callbacks=[Progress(plan)]),
        ).fit()


def _optuna(plan: Plan, ended: Sequence[Record]) -> OptunaSearch:
    """A search that knows the trials of earlier runs, and begins with those that did not end."""
    labels = {record.trial.label for record in ended}
    unfinished = [record.chosen for record in plan.records.all() if record.trial.label not in labels]
    search = OptunaSearch(
        space=OptunaSearch.convert_search_space(_space(plan.study)),
        metric=OBJECTIVE,
        mode=plan.study.mode,
        seed=plan.seed + len(ended),  # the same seed would draw the same samples again
        points_to_evaluate=[dict(chosen) for chosen in unfinished] or None,
    )
    for record in ended:
        if record.objective is not None:
            search.add_evaluated_point(dict(record.chosen), record.objective)
    return search


def _space(asked: StudyConfig) -> dict[str, Any]:
    space: dict[str, Any] = {}
    for key, values in asked.space.items():
        if isinstance(values, list):
            space[key] = tune.choice(list(range(len(values))))
            continue
        ((kind, (low, high)),) = values.items()
        if kind == "integers":
            space[key] = tune.randint(low, high + 1)
        else:
            space[key] = tune.loguniform(low, high) if kind == "log_uniform" else tune.uniform(low, high)
    return space


def _scheduler(asked: StudyConfig, epochs: int) -> ASHAScheduler | None:
    if asked.asha is None:
        return None
    return ASHAScheduler(
        time_attr=EPOCH,
        metric=PROBE,
        mode="max",
        max_t=epochs + 1,  # a trial that reaches this is stopped, but must be evaluated after its last epoch
        grace_period=asked.asha.grace,
        reduction_factor=asked.asha.reduction,
    )


def _trial(chosen: dict[str, Any], plan: Plan) -> None:
    """One trial, in its own process."""
    with suppress(OSError):  # if the driver's directory does not exist here, the paths are absolute
        os.chdir(plan.directory)
    plugins.load(plan.plugins, where=[plan.directory])
    trial = plan.trial(chosen)
    plan.records.begin(trial, chosen)
    try:
        pipe = plan.pipeline(trial)
        cluster = Cluster(pipe.cluster, plan.max_concurrency, plan.is_own)
        prepared = pipeline.prepare(pipe, cluster, plan.splits.get(_data_key(pipe)))
        watchers = [AmnWatch(prepared.plan)] if plan.study.asha is not None else []
        ended, tracked = run_observed(
            prepared,
            name=trial.label,
            study=plan.run_id,
            others=watchers,
            command=[*plan.given, *trial.overrides(plan.study.seeds_of)],
            since=plan.since,
        )
        metrics = {f"{step}/{key}": value for step, values in ended.summary.items() for key, value in values.items()}
        objective = metrics[plan.study.metric]
    except Exception as error:
        if plan.records.of(trial).ended:  # stopped while this was running
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        plan.records.end(trial, "failed", error=lines[-1])
        raise
    plan.records.end(trial, "finished", objective=objective, metrics=metrics, run=prepared.identity, tracked=tracked)
    tune.report({OBJECTIVE: objective})


class Progress(tune.Callback):
    """Logs the progress of the trials, and ends the records and MLflow runs of stopped ones."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        log("trial", f"{self.plan.trial(trial.config).label} starts")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """See ray.tune.Callback."""
        if PROBE in result:
            log("trial", f"{self.plan.trial(trial.config).label}: epoch {result[EPOCH]}, mIoU {result[PROBE]:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        ours, last = self.plan.trial(trial.config), trial.last_result
        if self.plan.records.of(ours).state == "finished":
            self._log(ours, f"{self.plan.study.metric} {last[OBJECTIVE]:.4f}")
            return
        self.plan.records.end(ours, "stopped", objective=last[PROBE], epoch=last[EPOCH])
        self._log(ours, f"stopped after epoch {last[EPOCH]}, at an mIoU of {last[PROBE]:.4f}")
        self._end_mlflow([ours.label])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        ours = self.plan.trial(trial.config)
        begun = {record.trial.label for record in self.plan.records.all()}
        if ours.label not in begun:  # its process died before it wrote a record
            self.plan.records.begin(ours, trial.config)
        self._log(ours, "failed")

    def _log(self, trial: Trial, message: str) -> None:
        ended = sum(record.repeats for record in self.plan.records.all() if record.ended)
        log("trial", f"{trial.label}: {message} ({ended} of {self.plan.total})")

    def _end_mlflow(self, stopped: list[str]) -> None:
        """End the MLflow runs of a trial whose process was killed, which leaves them RUNNING."""
        try:
            tracker = Tracker(self.plan.tracking, Store.open(self.plan.store))
            tracker.end_running(self.plan.run_id, stopped)
        except Exception as error:  # any exception: a trial must not fail because MLflow is unavailable
            log("trial", f"warning: MLflow was not updated ({error})")
