"""Rules of products: which library they name, what stands in for a missing one, what is refused."""

import json
from dataclasses import asdict

import pytest

from moe.config.products import (
    MEASURED,
    ROLES,
    TORCH_ALONE,
    UNRECORDED,
    Products,
    always,
    by_processor,
    read_products,
)
from moe.errors import ConfigError

RULES = Products(
    "tested",
    forward=((1, "onednn"),),
    input=((1, "mkl"), (8, "openblas")),
    weight=((1, "onednn"), (2, "openblas"), (64, "onednn")),
)


def test_the_last_rule_that_begins_at_the_rows_or_before_holds() -> None:
    assert [RULES.library("input", rows) for rows in (1, 7, 8, 9, 10**6)] == [
        *["mkl"] * 2,
        *["openblas"] * 3,
    ]
    assert [RULES.library("weight", rows) for rows in (1, 2, 63, 64)] == [
        "onednn",
        "openblas",
        "openblas",
        "onednn",
    ]


@pytest.mark.parametrize("rules", [RULES, *MEASURED.values(), *TORCH_ALONE.values()])
def test_a_record_gives_the_same_rules(rules: Products) -> None:
    assert read_products(json.loads(json.dumps(asdict(rules)))) == rules


def test_rules_tell_which_libraries_they_use() -> None:
    assert RULES.uses("openblas")
    assert not always("tested", "mkl").uses("openblas")
    assert not any(rules.uses("openblas") for rules in TORCH_ALONE.values())


def test_the_first_rules_of_a_processor_are_kept() -> None:
    other = always("tested", "mkl")
    assert by_processor([RULES, other, always("else", "mkl")]) == {
        "tested": RULES,
        "else": always("else", "mkl"),
    }


def test_runs_that_recorded_nothing_multiplied_by_onednn() -> None:
    for kind, rules in UNRECORDED.items():
        assert rules.processor == kind
        assert {rules.library(role, rows) for role in ROLES for rows in (1, 512)} == {"onednn"}


def test_rules_that_leave_rows_out_and_unknown_libraries_are_refused() -> None:
    table = asdict(RULES)
    with pytest.raises(ConfigError, match=r"forward products on tested begin at rows \[2\]"):
        read_products(table | {"forward": [[2, "onednn"]]})
    with pytest.raises(ConfigError, match=r"begin at rows \[1, 8, 8\]; they must begin at 1"):
        read_products(table | {"input": [[1, "mkl"], [8, "mkl"], [8, "openblas"]]})
    with pytest.raises(
        ConfigError, match="blis is no library of products; this version has onednn"
    ):
        read_products(table | {"weight": [[1, "blis"]]})
