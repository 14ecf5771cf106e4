"""What a person may ask of a method, and what is refused with the reason."""

from pathlib import Path
from typing import Any

import pytest

from moe.errors import ConfigError
from moe.surgery.copies import Drop, VirtualGroup, equal_width
from moe.surgery.cuts import Shared, Split
from moe.surgery.methods import method_named
from moe.surgery.options import UpcycleOptions
from moe.surgery.upcycle import upcycle

HIDDEN, WIDTH, LAYERS = 24, 40, 3


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("copy", {"ratio": 0.5}, "the method copy has no ratio, .* choose drop"),
        ("split", {"shared": 1}, "the method split has no shared, .* choose shared"),
        ("drop", {"by": "random"}, "the method drop has no by, .* choose split or shared"),
        ("average", {}, "no method 'average'; choose copy, noise, drop, virtual-group"),
        ("drop", {"ratio": 1.5}, "ratio is 1.5"),
        ("drop", {"ratio": float("nan")}, "ratio is nan"),
        ("noise", {"deviation": -1.0}, "deviation is -1.0"),
        ("virtual-group", {"granularity": 1}, "give at least 2, or the method copy"),
        ("shared", {"shared": 0}, "give at least 1 part, or the method split"),
        ("split", {"by": "magic"}, "by is 'magic'; choose random or activation"),
    ],
)
def test_method_options_are_checked(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method_named(name, given)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (40, "choose one of 2, 4, 5, 8, 10, 20$"),
        (41, r"no number from 2 to 40 divides 41: choose a method that does not cut it \(copy"),
        (514, "choose one of 2$"),
        (263 * 269, "no number from 2 to 256 divides 70747: choose a method"),
    ],
)
def test_what_would_divide_is_said(columns: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        equal_width(columns, 3)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": Split(), "experts": 7}, "40 columns cannot be cut into 7 equal .* 2, 4, 5, 8"),
        ({"method": Shared(), "experts": 6}, "cannot be cut into 7 equal parts"),
        ({"method": VirtualGroup(3)}, "cannot be cut into 3 equal parts; choose one of 2, 4, 5"),
        ({"router": "centroid"}, "all experts would get the same row; choose normal or zero"),
        ({"method": VirtualGroup(), "router": "zero"}, "would not take whole groups"),
        ({"router": "zero", "router_std": 0.1}, "router_std has no effect on a router of zeros"),
        ({"router": "magic"}, "no router 'magic'; choose normal or zero or centroid"),
        ({"method": Drop(0.01)}, "ratio 0.01 of 40 columns is none, .* or the method copy"),
        ({"first_dense": 3}, "leave at least one layer with experts"),
        ({"first_dense": -1}, "first_dense is -1"),
        ({"score": "relu"}, "score is 'relu'"),
    ],
)
def test_options_that_cannot_be_are_refused(
    asked: dict[str, Any], message: str, dense: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        upcycle(dense, tmp_path / "moe", UpcycleOptions(**({"experts": 4, "top_k": 2} | asked)))
    assert not (tmp_path / "moe").exists()
