"""The records of a study's trials, on real files."""

from __future__ import annotations

from pathlib import Path

from amn_ray.core.artifacts import Store
from amn_ray.tuning.records import Records
from amn_ray.tuning.study import Trial

TRIAL = Trial("all", {"amn.dropout": 0.1}, 0)


def test_a_trial_that_the_search_chose_twice_counts_twice_but_not_one_that_is_run_again(tmp_path: Path) -> None:
    records = Records(Store.open(str(tmp_path)).folder("trials"))
    records.begin(TRIAL, {})
    records.begin(TRIAL, {})  # its process died
    assert records.of(TRIAL).repeats == 1
    records.end(TRIAL, "finished", objective=0.5, tracked=False)
    records.begin(TRIAL, {})  # MLflow did not know all of it
    assert records.of(TRIAL).repeats == 1
    records.end(TRIAL, "finished", objective=0.5)
    records.begin(TRIAL, {})
    assert records.of(TRIAL).repeats == 2
