"""What a study writes: any name and any mixture of values comes back from its tables as it was."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from amn_ray.core.folders import Folder
from amn_ray.core.places import locate
from amn_ray.tuning import results
from amn_ray.tuning.records import Record, Records
from amn_ray.tuning.study import StudyConfig, Trial

NAMES = [
    "Bob's parts", 'a "quoted" name', "a,b", "US$ and $x$", "a|b", "#1", "猫", "x" * 200, "1", "NA", "two\nlines",
    "[red]", ":cat:", "None", "nan", "=1+1", "a/b",
]  # fmt: skip
METRIC = "refined/selection_miou"


def record(group: str, settings: dict[str, object], value: float = 0.5) -> Record:
    return Record(
        group=group, settings=settings, seed=0, state="finished", started=0, chosen={}, objective=value,
        metrics={METRIC: value}, run="r",
    )  # fmt: skip


def study() -> StudyConfig:
    return StudyConfig(name="names", question="Do $names$ matter?", metric=METRIC)


def test_names_come_back_from_csv_and_parquet(tmp_path: Path) -> None:
    made = results.write([record(name, {}) for name in NAMES], study(), tmp_path)
    for read in (
        pd.read_csv(tmp_path / "trials.csv", dtype=str, keep_default_na=False),
        pd.read_parquet(tmp_path / "trials.parquet"),
    ):
        assert read["setting"].tolist() == NAMES
        assert read["trial"].tolist() == [f"{name} seed=0" for name in NAMES]
    assert pd.read_parquet(tmp_path / "settings.parquet")["setting"].tolist() == NAMES
    assert (tmp_path / "study.png") in made.files


def test_a_key_with_values_of_several_types_has_one_column(tmp_path: Path) -> None:
    values = [1, "auto", None, 0.5, True, [1, 2]]
    rows = [record(str(value), {"a": value, "b": 0.5}) for value in values] + [record("case", {"c": "d"})]
    results.write(rows, study(), tmp_path)
    read = pd.read_parquet(tmp_path / "trials.parquet")
    assert read["a"].tolist()[:-1] == ["1", "auto", "None", "0.5", "True", "[1, 2]"]
    assert pd.isna(read["a"].iloc[-1])
    assert read["b"].tolist()[:-1] == [0.5] * 6


def test_records_of_any_name_are_found_again(tmp_path: Path) -> None:
    records = Records(Folder(*locate(str(tmp_path))))
    for name in NAMES:
        trial = Trial(name, {"a": name}, 0)
        records.begin(trial, {})
        records.end(trial, "finished", metrics={METRIC: 0.5})
    assert {found.trial.label for found in records.all()} == {f"{name} seed=0" for name in NAMES}


def test_the_terminal_shows_settings_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in NAMES if len(name) < 12]
    made = results.write([record(name, {}) for name in names], study(), tmp_path)
    results.tell(made, study(), Folder(*locate(str(tmp_path))))
    told = capsys.readouterr().out
    assert "Do $names$ matter?" in told
    assert all(part in told for name in names for part in name.split("\n"))
