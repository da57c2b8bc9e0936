"""Training steps of each network: the device against the CPU, bfloat16, repetition, and going on from a checkpoint."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from amn_ray.nn.backbones.backbone import Backbone
from amn_ray.nn.precision import autocast
from amn_ray.nn.weights import load_module, to_bytes
from tests.gpu.core.trainings import NAMES, Step, batch_of, network, training

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("as_in_the_loop")]
CPU = torch.device("cpu")
SMALL: dict[str, dict[str, Any]] = {
    "classifier": {"crop": 64, "long_side": [48, 80]},
    "amn": {"crop": 64, "dropout": 0},  # whose random numbers differ between devices
    "irn": {"crop": 64, "radius": 4},
    "deeplabv2": {"crop": 65, "grad_accumulation": 2},
}
LEARNS: dict[str, dict[str, Any]] = {
    "classifier": {"lr_backbone": 0.02, "lr_head": 0.2},
    "amn": {"lr_backbone": 1e-4, "lr_head": 1e-3, "smoothing": 0},
    "irn": {"lr_edge": 0.1, "lr_displacement": 0.2},
    "deeplabv2": {"lr": 1e-3},
}
"""Rates that learn one batch by heart in 30 steps."""


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The difference of two sets of tensors, as a share of the second one's length."""
    assert found.keys() == expected.keys()
    difference = torch.cat([(found[name] - expected[name]).double().flatten() for name in expected])
    return float(difference.norm() / torch.cat([value.double().flatten() for value in expected.values()]).norm())


def change(after: dict[str, Tensor], before: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: after[name] - before[name] for name in before}


def test_auto_is_bfloat16_where_the_hardware_computes_it(device: torch.device) -> None:
    if device.type == "cuda":
        has_it = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        has_it = bool({"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
    with autocast(device, "auto"):
        made = torch.nn.Linear(2, 2).to(device)(torch.ones(1, 2, device=device))
    assert made.dtype == (torch.bfloat16 if has_it else torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_as_near_to_float64_as_that_of_the_cpu(
    name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss to 1e-4; gradients within five times the CPU's own rounding, which flips the ReLUs of small values."""
    one = training(name, precision="fp32", **SMALL[name])
    model = network(one.build)
    cpu, found = Step(one, model, CPU), Step(one, model, device)
    before = cpu.weights()
    loss = cpu(batch_of(one, 4, 80, CPU))
    assert found(batch_of(one, 4, 80, device)) == pytest.approx(loss, rel=1e-4)

    normalise = Backbone.normalise
    monkeypatch.setattr(Backbone, "normalise", lambda self, rgba: normalise(self, rgba).double())
    exact = Step(one, model.double(), CPU)
    batch = batch_of(one, 4, 80, CPU)
    exact({key: value.double() if value.is_floating_point() else value for key, value in batch.items()})
    assert all(gradient.norm() > 0 for gradient in exact.gradients().values())
    rounding, error = (distance(step.gradients(), exact.gradients()) for step in (cpu, found))
    print(f"\n{name}: gradients differ from float64's by {error:.1e}, the CPU's by {rounding:.1e}")
    assert error < 5 * max(rounding, 1e-5)
    # Adam's first step is a sign, which flips where a gradient is nearly 0; SGD's is the gradient times the rate.
    moved, wanted = change(found.weights(), before), change(cpu.weights(), before)
    assert distance(moved, wanted) < (0.1 if name == "amn" else 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_learns_a_batch_by_heart(name: str, device: torch.device) -> None:
    one = training(name, precision="bf16", steps=30, **SMALL[name] | LEARNS[name])
    step, batch = Step(one, network(one.build), device), batch_of(one, 4, 80, device)
    losses = [step(batch) for _ in range(30)]
    print(f"\n{name}: loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} steps")
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_steps_twice_give_the_same_bits(name: str, precision: str, device: torch.device) -> None:
    one = training(name, precision=precision, **SMALL[name] | {"dropout": 0.1} if name == "amn" else SMALL[name])
    model, batch = network(one.build), batch_of(one, 4, 80, device)
    made = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            torch.manual_seed(1)
            step = Step(one, model, device)
            made.append(([step(batch) for _ in range(2)], step.weights()))
    for text in {str(warning.message)[:150] for warning in caught if "determinis" in str(warning.message)}:
        print(f"\n{name} {precision}: {text}")
    (losses, weights), (again, weights_again) = made
    apart = distance(weights_again, weights)
    print(f"\n{name} {precision}: losses {losses} and {again}, weights {apart:.1e} apart")
    assert losses == again
    assert apart == 0


@pytest.mark.parametrize("name", NAMES)
def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(name: str, device: torch.device) -> None:
    """Written from the device, read to the CPU, loaded into what is on the device: our loop's way."""
    one = training(name, precision="fp32", **SMALL[name])
    model, batch = network(one.build), batch_of(one, 2, 80, device)
    step = Step(one, model, device)
    step(batch)
    parts = {"model": step.model, "optimizer": step.optimizer, "schedule": step.schedule}
    stream = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in parts.items() if part is not None}, stream)
    expected = [step(batch), step(batch)]

    state = torch.load(io.BytesIO(stream.getvalue()), map_location="cpu", weights_only=True)
    resumed = Step(one, model, device)
    resumed.model.load_state_dict(state["model"])
    resumed.optimizer.load_state_dict(state["optimizer"])
    if resumed.schedule is not None:
        resumed.schedule.load_state_dict(state["schedule"])
    for parameter, kept in resumed.optimizer.state.items():
        for key, value in kept.items():
            if isinstance(value, Tensor) and key != "step":  # Adam counts on the CPU
                assert value.device == parameter.device, key
    assert [resumed(batch), resumed(batch)] == pytest.approx(expected, rel=1e-5)
    assert distance(resumed.weights(), step.weights()) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_back_from_safetensors_bit_by_bit(name: str, device: torch.device) -> None:
    one = training(name, **SMALL[name])
    model = network(one.build).to(device)
    content, _ = to_bytes(model, {})
    assert all(not value.is_cuda for value in safetensors.torch.load(content).values())
    loaded = load_module(one.build(), content).to(device).state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())
