"""A journal in the formats of other tools, read back by their own readers."""

import sys
from pathlib import Path

import pytest

from moe.errors import ConfigError
from pipelines.reporting.flat import Numbers, Told, flat
from pipelines.reporting.tensorboard import to_tensorboard
from pipelines.reporting.wandb_run import to_wandb
from tests import journals


def test_every_finite_number_of_every_step_is_there(tmp_path: Path) -> None:
    lines = [journals.step(1), journals.step(2, loss=float("nan")), journals.step(3, mfu=0.4)]
    lines.insert(2, {"event": "lost", "time": 5.0, "done": 2, "cause": "gone", "spares": 3})
    lines.insert(2, {"event": "copies", "time": 5.0, "step": 2})
    one, two, lost, three = flat(journals.written(tmp_path, lines) / "journal.jsonl")
    assert isinstance(one, Numbers)
    assert isinstance(two, Numbers)
    assert isinstance(three, Numbers)
    assert one.values["loss"] == lines[0]["loss"]
    assert one.values["drop_rate/layer_002"] == 0.1
    assert "loss" not in two.values
    assert three.values["mfu"] == 0.4
    assert lost == Told("lost", 2, 5.0, "done: 2, cause: gone")


def test_tensorboard_reads_back_every_scalar_and_event(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = journals.written(tmp_path / "run", journals.eventful())
    assert to_tensorboard(run, tmp_path / "events") == 40
    read = EventAccumulator(str(tmp_path / "events"), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    losses = read.Scalars("loss")
    assert [each.step for each in losses] == [*range(1, 41)]
    for each in losses:
        assert each.value == pytest.approx(journals.step(each.step)["loss"])
        assert each.wall_time == journals.BEGAN + 10 * each.step
    assert read.Scalars("coefficient/layer_001")[-1].value == pytest.approx(0.01)
    (lost,) = read.Tensors("events/lost/text_summary")
    assert (lost.step, b"rank 1 died" in lost.tensor_proto.string_val[0]) == (12, True)


def test_a_directory_with_another_export_is_let_alone(tmp_path: Path) -> None:
    run = journals.written(tmp_path / "run", journals.eventful(3))
    with pytest.raises(ConfigError, match="is not empty; TensorBoard would join"):
        to_tensorboard(run, run)


def test_without_wandb_its_export_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = journals.written(tmp_path / "run", journals.eventful(3))
    with pytest.raises(ConfigError, match=r"pip install 'raymoe\[wandb\]'"):
        to_wandb(run, tmp_path / "offline", "run")
    assert not (tmp_path / "offline").exists()
