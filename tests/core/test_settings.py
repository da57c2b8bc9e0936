"""Settings on the way into plans, fingerprints, manifests and records, and back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import pytest

from amn_ray.core.errors import RequestError
from amn_ray.core.settings import affecting_result, build, filled, flat, for_evaluation, shared


@dataclass(kw_only=True)
class Network:
    name: str = "small"
    weights: str | None = None


@dataclass(kw_only=True)
class Optimiser:
    seed: int | None = shared()
    rate: float = 0.1
    start: Network | None = None


@dataclass(kw_only=True)
class Settings:
    seed: int | None = shared()
    network: Network | None = shared()
    plain: str | None = None
    optimiser: Optimiser = field(default_factory=Optimiser)
    scales: list[float] = field(default_factory=lambda: [1.0, 0.5])
    threshold: float = for_evaluation(0.15)


def plain(settings: Any) -> Any:
    """What JSON makes of it, as it stands in a manifest."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def test_shared_fields_that_are_null_are_filled_also_in_nested_settings_and_nothing_else_is() -> None:
    large = Network(name="large")
    settings = filled(Settings(), seed=3, network=large, plain="not shared", threshold=0.9, unknown=1)
    assert settings == Settings(seed=3, network=large, optimiser=Optimiser(seed=3))


def test_a_value_of_ones_own_is_kept_also_if_it_is_zero() -> None:
    own = Settings(seed=0, network=Network(weights="mine"), optimiser=Optimiser(seed=7))
    assert filled(own, seed=3, network=Network(name="large")) == own


def test_completing_leaves_the_settings_as_they_were_and_completes_them_once() -> None:
    before = Settings()
    once = filled(before, seed=3, network=Network())
    assert before == Settings()
    assert filled(once, seed=4, network=Network(name="large")) == once


def test_a_shared_field_for_which_the_pipeline_has_no_value_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^Settings\.network: is shared\(\) with the pipeline, which has no such"):
        filled(Settings(), seed=3)


def test_completed_settings_are_checked_again() -> None:
    @dataclass(kw_only=True)
    class Checked:
        seed: int | None = shared()

        def __post_init__(self) -> None:
            if self.seed is not None and self.seed < 0:
                raise ValueError(f"seed={self.seed}")

    with pytest.raises(ValueError, match="seed=-1"):
        filled(Checked(), seed=-1)


def test_a_field_for_the_evaluation_decides_nothing_and_every_other_one_does() -> None:
    assert affecting_result(Settings()) == {
        "plain": None, "scales": [1.0, 0.5],
        "optimiser": {"seed": None, "rate": 0.1, "start": None},
    }  # fmt: skip
    assert affecting_result(Settings(threshold=0.9)) == affecting_result(Settings())
    others = [
        Settings(seed=1), Settings(network=Network()), Settings(plain=""), Settings(scales=[1.0]),
        Settings(optimiser=Optimiser(rate=0.2)),
    ]  # fmt: skip
    assert len({json.dumps(affecting_result(one), sort_keys=True) for one in [Settings(), *others]}) == 6


def test_a_step_without_settings_has_none_that_decide() -> None:
    assert affecting_result(None) == {}


def test_flat_settings_have_dotted_keys_and_no_password() -> None:
    settings = Settings(
        plain="postgresql://user:PASSWORD@host/db",
        network=Network(weights="s3://KEY:PASSWORD@bucket/w.pth?token=PASSWORD"),
        optimiser=Optimiser(start=Network(weights="/home/a b.pth")),
    )
    assert flat(settings) == {
        "seed": None,
        "network.name": "small",
        "network.weights": "s3://***@bucket/w.pth?token=***",
        "plain": "postgresql://***@host/db",
        "optimiser.seed": None,
        "optimiser.rate": 0.1,
        "optimiser.start.name": "small",
        "optimiser.start.weights": "/home/a b.pth",
        "scales": [1.0, 0.5],
        "threshold": 0.15,
    }
    assert flat(Settings(), "one.")["one.optimiser.rate"] == 0.1
    assert settings.plain == "postgresql://user:PASSWORD@host/db", "the settings themselves keep it"


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(seed=3, network=Network(name="large", weights="given"), plain="x", scales=[], threshold=0.0),
        Settings(optimiser=Optimiser(seed=1, rate=1e-7, start=Network(weights="mine"))),
    ],
)
def test_settings_come_back_from_their_json(settings: Settings) -> None:
    assert build(Settings, plain(settings)) == settings


@dataclass(kw_only=True)
class Spelt:
    """The ways to say that a dataclass may be absent."""

    new: None | Network = None  # noqa: RUF036
    old: Optional[Network] = None  # noqa: UP045
    oldest: Union[Network, None] = None  # noqa: UP007
    always: Network = field(default_factory=Network)
    number: int | float | None = None
    anything: Any = None
    table: dict[str, float] = field(default_factory=dict)


def test_a_dataclass_comes_back_however_its_absence_is_spelt() -> None:
    given = Network(name="given")
    full = Spelt(new=given, old=given, oldest=given, always=given, number=0.5, anything={"name": "x"}, table={"a": 1.0})
    assert build(Spelt, plain(full)) == full
    assert build(Spelt, plain(Spelt())) == Spelt()


def test_what_the_json_lacks_keeps_its_default_also_inside() -> None:
    assert build(Settings, {"optimiser": {"seed": 5}, "network": {}}) == Settings(
        network=Network(), optimiser=Optimiser(seed=5)
    )


@pytest.mark.parametrize("surplus", [{"rate": 1}, {"optimiser": {"rates": 1}}, {"network": {"nom": "x"}}])
def test_a_field_that_the_dataclass_lacks_is_refused(surplus: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        build(Settings, surplus)
