"""Saves of a training run: whole or refused, never half."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ureca.errors import WeightsError
from ureca.models.training.checkpoints import (
    get_optimizer_tensors,
    load_optimizer,
    read_save,
    write_save,
)

NAMES = ("model", "optimizer")


def trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def save(folder: Path, steps: int) -> None:
    model, optimizer = trained(steps)
    parts = (model.state_dict(), get_optimizer_tensors(optimizer))
    write_save(folder, steps, dict(zip(NAMES, parts, strict=True)))


def test_the_newest_save_comes_back_bit_by_bit(tmp_path: Path) -> None:
    for steps in (1, 2, 3):
        save(tmp_path, steps)
    step, (weights, moments) = read_save(tmp_path, NAMES) or (0, [{}, {}])
    assert step == 3
    model, optimizer = trained(3)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    other = torch.optim.AdamW(model.parameters(), lr=0.5)
    load_optimizer(other, moments)
    assert other.param_groups[0]["lr"] == 0.5
    for parameter in model.parameters():
        assert torch.equal(
            other.state[parameter]["exp_avg_sq"], optimizer.state[parameter]["exp_avg_sq"]
        )
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-0000002", "step-0000003"]


def test_a_kill_while_saving_leaves_the_save_before(tmp_path: Path) -> None:
    save(tmp_path, 1)
    half = tmp_path / "step-0000002.part"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    step, _ = read_save(tmp_path, NAMES) or (0, [])
    assert step == 1
    save(tmp_path, 2)
    step, _ = read_save(tmp_path, NAMES) or (0, [])
    assert step == 2


def truncated(folder: Path) -> None:
    path = folder / "step-0000001" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:40])


def gone(folder: Path) -> None:
    (folder / "step-0000001" / "optimizer.safetensors").unlink()


def no_json(folder: Path) -> None:
    (folder / "latest.json").write_text("{")


def no_pointer(folder: Path) -> None:
    (folder / "latest.json").write_text("[]")


@pytest.mark.parametrize("damage", [truncated, gone, no_json, no_pointer])
def test_a_damaged_save_says_what_to_do(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    save(tmp_path, 1)
    damage(tmp_path)
    with pytest.raises(WeightsError, match=r"cannot resume from .*; remove it to start again"):
        read_save(tmp_path, NAMES)


def test_no_save_is_none(tmp_path: Path) -> None:
    assert read_save(tmp_path, NAMES) is None
