"""Exports a journal for TensorBoard and for wandb, and reads both back.

The first by TensorBoard's own reader; the second by wandb's messages, out of a file that has
LevelDB's form of a log: blocks of 32 KiB with pieces of records (wandb has its reader in Go).
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from pipelines.reporting.flat import Numbers, Told, flat
from pipelines.reporting.tensorboard import to_tensorboard
from pipelines.reporting.wandb_run import to_wandb


def check_tensorboard(run: Path, to: Path, steps: list[Numbers], events: list[Told]) -> None:
    """Compare every scalar, step and time, and the events."""
    assert to_tensorboard(run, to) == len(steps)
    read = EventAccumulator(str(to), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    names = {name for each in steps for name in each.values}
    assert {*read.Tags()["scalars"]} == names
    for name in names:
        wanted = [(each.step, each.values[name]) for each in steps if name in each.values]
        found = [(each.step, each.value) for each in read.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in wanted]
        pairs = zip(found, wanted, strict=True)
        assert all(abs(one - other) <= 1e-6 * abs(other) for (_, one), (_, other) in pairs)
    assert [each.wall_time for each in read.Scalars("loss")] == [each.moment for each in steps]
    for told in events:
        found = read.Tensors(f"events/{told.kind}/text_summary")
        assert told.text.encode() in [each.tensor_proto.string_val[0] for each in found]


def check_wandb(run: Path, to: Path, steps: list[Numbers]) -> None:
    """Compare the steps of the offline run, and its losses."""
    assert to_wandb(run, to, "demo") == len(steps)
    (file,) = to.glob("wandb/offline-run-*/run-*.wandb")
    losses: dict[int, float] = {}
    for record in records(file.read_bytes()):
        items = {item.key or item.nested_key[0]: item for item in record.history.item}
        if "loss" in items:
            losses[int(items["_step"].value_json)] = float(items["loss"].value_json)
    assert losses == {each.step: each.values["loss"] for each in steps}


BLOCK, HEADER, FILE_HEADER = 32768, 7, 7
FULL, LAST = 1, 4


def records(data: bytes) -> Iterator[Record]:
    """Yield the records of an offline run."""
    place, whole = FILE_HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + HEADER])
        place += HEADER
        whole += data[place : place + size]
        place += size
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


if __name__ == "__main__":
    journal, folder = Path(sys.argv[1]), Path(sys.argv[2])
    told = list(flat(journal / "journal.jsonl"))
    numbers = [each for each in told if isinstance(each, Numbers)]
    happened = [each for each in told if isinstance(each, Told)]
    check_tensorboard(journal, folder / "events", numbers, happened)
    check_wandb(journal, folder / "offline", numbers)
