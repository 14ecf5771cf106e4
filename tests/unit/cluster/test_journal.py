import json
from pathlib import Path

import pytest

from cluster.journal import Journal, read
from moe.errors import DataError


def test_records_come_back_in_order_and_are_on_disk_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "run" / "journal.jsonl"
    with Journal(path) as journal:
        for step in range(3):
            journal.append({"step": step, "loss": 2.5 - step, "layers": [0.5, 0.25]})
            assert read(path)[-1] == {"step": step, "loss": 2.5 - step, "layers": [0.5, 0.25]}
    assert [record["step"] for record in read(path)] == [0, 1, 2]


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append({"loss": float("nan"), "rates": {"0": float("inf")}, "name": "é\nü"})
    assert read(tmp_path / "j") == [{"loss": None, "rates": {"0": None}, "name": "é\nü"}]


@pytest.mark.parametrize("torn", ['{"step": 1, "lo', "{", '{"step":1}'])
def test_a_torn_last_line_is_ignored_by_readers_and_removed_by_writers(
    tmp_path: Path, torn: str
) -> None:
    path = tmp_path / "j"
    path.write_text('{"step":0}\n' + torn)
    assert read(path) == [{"step": 0}]
    with Journal(path) as journal:
        journal.append({"step": 1})
    assert path.read_text() == '{"step":0}\n{"step":1}\n'


def test_a_resumed_run_repeats_no_step(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        for record in ({"event": "start"}, {"step": 1}, {"step": 2}, {"event": "x"}, {"step": 3}):
            journal.append(record)
        journal.append({"event": "of step 2, seen late", "step": 2})
        journal.append({"event": "y"})
        journal.append({"event": "of step 3", "step": 3})
    with Journal(path) as journal:
        journal.truncate_after(2)
        journal.append({"step": 3, "again": True})
    assert read(path) == [
        {"event": "start"},
        {"step": 1},
        {"step": 2},
        {"event": "x"},
        {"event": "of step 2, seen late", "step": 2},
        {"event": "y"},
        {"step": 3, "again": True},
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["j"]


def test_truncating_beyond_the_end_keeps_everything(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append({"step": 1})
        journal.truncate_after(9)
    assert read(tmp_path / "j") == [{"step": 1}]


def test_damage_in_the_middle_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "j").write_text('{"step":0}\n{oops\n{"step":2}\n')
    with pytest.raises(DataError, match="line 2 is not JSON"):
        read(tmp_path / "j")
    (tmp_path / "j").write_text(json.dumps([1]) + "\n")
    with pytest.raises(DataError, match="line 1 is not a JSON object"):
        read(tmp_path / "j")


def test_a_missing_journal_and_an_unwritable_one_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no journal at"):
        read(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the journal"):
        Journal(tmp_path / "file" / "j")
