"""What the terminal says of an upcycling."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe.checkpoint.reader import Checkpoint
from moe.surgery.copies import Copy, Drop
from moe.surgery.cuts import Shared
from moe.surgery.distance import LogitDistance
from moe.surgery.method import Method
from moe.surgery.options import UpcycleOptions, upcycled_config
from moe.surgery.receipt import Receipt
from pipelines.screen.model_tables import chosen, receipt_table
from tests import tiny

ALWAYS = {"experts", "top_k", "router_std", "seed", "family", "architecture"}


def receipt(path: Path, method: Method, *notes: str, **changes: Any) -> Receipt:
    dense = Checkpoint.open(tiny.saved(tiny.llama(), path / "dense")).config
    options = UpcycleOptions(**({"experts": 4, "top_k": 2, "method": method} | changes))
    table = options.record(upcycled_config(dense, options)) | {"calibration": None}
    distance = LogitDistance(64, 0.0, 0.0, 0.0, 1.0)
    return Receipt(method.name, table, options.seed, "dense", {}, {}, distance, notes)


def test_what_is_as_always_is_not_said_but_the_seed_is(tmp_path: Path) -> None:
    said = chosen(receipt(tmp_path, Copy()))
    assert said.keys() == ALWAYS
    assert (said["seed"], said["experts"], said["top_k"]) == ("0", "4", "2")
    assert said["architecture"] == "experts 4, top k 2, expert size 40"


@pytest.mark.parametrize(
    ("name", "value", "also"),
    [
        ("gate_norm", 1.0, "gate norm 1.0"),
        ("renormalise", False, "renormalise False"),
        ("first_dense", 1, "dense layers (0,)"),
        ("score", "sigmoid", "score sigmoid"),
        ("balance_bias", True, "balance bias True"),
    ],
)
def test_what_was_chosen_is_said(name: str, value: Any, also: str, tmp_path: Path) -> None:
    said = chosen(receipt(tmp_path, Copy(), **{name: value}))
    assert said.keys() == ALWAYS | {name}
    assert said[name] == str(value)
    assert also in said["architecture"]


def test_a_one_is_said_where_it_was_chosen(tmp_path: Path) -> None:
    found = receipt(tmp_path, Copy(), top_k=1, renormalise=False)
    assert chosen(found)["top_k"] == "1"
    assert "top k 1" in chosen(found)["architecture"]
    zero = replace(found, options=dict(found.options) | {"router_std": 0.0})
    assert chosen(zero)["router_std"] == "0.0"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Drop(0.0), {"ratio": "0.0"}),
        (Drop(1.0), {"ratio": "1.0"}),
        (Shared(), {"by": "random", "shared": "1", "shared_gate": "False"}),
    ],
)
def test_options_of_the_method_are_always_said(
    method: Method, expected: dict[str, str], tmp_path: Path
) -> None:
    said = chosen(receipt(tmp_path, method, experts=4 if method.name == "drop" else 7))
    assert expected.items() <= said.items()


def test_the_table_has_a_row_for_each(tmp_path: Path) -> None:
    found = receipt(tmp_path, Copy())
    assert receipt_table(found).row_count == 1 + len(chosen(found)) + 2
    noted = receipt(tmp_path, Copy(), "lm_head.weight [is] another")
    assert receipt_table(noted).row_count == receipt_table(found).row_count + 1
