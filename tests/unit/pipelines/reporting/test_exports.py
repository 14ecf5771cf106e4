"""A journal in the formats of other tools."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

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


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of the format: CRC-32C, rotated and moved."""
    found = crc32c(data)
    return ((found >> 15 | found << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events_of(directory: Path) -> Iterator[Event]:
    """Yield the events of an event file: length and checksum, the event, its checksum."""
    (file,) = directory.iterdir()
    data = file.read_bytes()
    while data:
        size, checked = struct.unpack("<QI", data[:12])
        body, (checksum,) = data[12 : 12 + size], struct.unpack("<I", data[12 + size : 16 + size])
        assert (masked_crc32c(data[:8]), masked_crc32c(body)) == (checked, checksum)
        event = Event()
        event.ParseFromString(body)
        yield event
        data = data[16 + size :]


def test_an_event_file_has_every_scalar_and_event(tmp_path: Path) -> None:
    """TensorBoard's own reader is asked by ``make clients``."""
    run = journals.written(tmp_path / "run", journals.eventful())
    assert to_tensorboard(run, tmp_path / "events") == 40
    losses, texts = [], {}
    for event in events_of(tmp_path / "events"):
        for value in event.summary.value:
            if value.tag == "loss":
                losses.append((event.step, event.wall_time, value.simple_value))
            if value.tag.startswith("events/"):
                texts[value.tag] = event.step, value.tensor.string_val[0]
    assert [step for step, *_ in losses] == [*range(1, 41)]
    for step, moment, loss in losses:
        assert loss == pytest.approx(journals.step(step)["loss"])
        assert moment == journals.BEGAN + 10 * step
    step, told = texts["events/lost/text_summary"]
    assert (step, b"rank 1 died" in told) == (12, True)


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
