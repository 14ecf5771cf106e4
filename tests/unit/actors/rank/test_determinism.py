"""Deterministic ranks: the flag, the variable, and what is refused."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from actors.rank.determinism import VARIABLE, set_deterministic
from moe.checkpoint.reader import Checkpoint
from moe.errors import LaunchError
from tests import runs, tiny
from tests.alone import alone


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill


def test_the_flag_and_the_variable_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ[VARIABLE] == ":4096:8"
    assert not torch.utils.deterministic.fill_uninitialized_memory
    monkeypatch.setenv(VARIABLE, ":16:8")
    set_deterministic(True)
    assert os.environ[VARIABLE] == ":16:8"


def test_an_operation_without_a_deterministic_kernel_is_refused() -> None:
    places, values = torch.tensor([1, 1]), torch.tensor([1.0, 2.0])
    set_deterministic(True)
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        torch.zeros(3).put_(places, values)
    set_deterministic(False)
    torch.zeros(3).put_(places, values)


def test_another_order_of_cublas_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, ":0:0")
    set_deterministic(False)
    with pytest.raises(LaunchError, match=r"needs CUBLAS_WORKSPACE_CONFIG=:4096:8 .* says ':0:0'"):
        set_deterministic(True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_cuda_that_has_started_without_the_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(LaunchError, match="CUDA has started in this process; start the run anew"):
        set_deterministic(True)
    monkeypatch.setenv(VARIABLE, ":4096:8")
    set_deterministic(True)


def test_a_rank_that_trains_deterministically(tmp_path: Path) -> None:
    """A step runs with deterministic kernels alone, to the bits that a CPU has anyway."""
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    config, reports = Checkpoint.open(model).config, []
    for wanted in (True, False):
        run = runs.run_config(model, train={"deterministic": wanted})
        with alone(model, run) as rank:
            assert torch.are_deterministic_algorithms_enabled() == wanted
            report = rank.train_step(runs.batch(config, run, 0))
            reports.append((report.loss, report.gradient_norm, report.layers))
    assert reports[0] == reports[1]
