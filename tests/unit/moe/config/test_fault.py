"""A fault as text: there and back, and what is refused."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.config.fault import FAULT_KINDS, NODE_KINDS, PHASES, PROCESS_KINDS, Fault, parse_fault
from moe.errors import ConfigError
from tests.faults import OWN_PHASES, faults_of

NUMBERS = st.integers(0, 10**9 - 1)


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    kind, rank, step = draw(st.sampled_from(FAULT_KINDS)), draw(NUMBERS), draw(NUMBERS)
    if kind in PROCESS_KINDS:
        return Fault(kind, rank, step, draw(st.sampled_from(PHASES)))
    seconds = st.none() | st.integers(1, 10**6) if kind == "drain" else st.none()
    return Fault(kind, rank, step, seconds=draw(seconds))


@given(faults())
def test_a_fault_is_its_text(fault: Fault) -> None:
    assert parse_fault(str(fault)) == fault


def test_order_and_spaces_do_not_matter() -> None:
    text = " kill: phase = backward , step=5, rank=3 "
    assert str(parse_fault(text)) == "kill:rank=3,step=5,phase=backward"
    assert str(parse_fault("drain:rank=2,seconds=30,step=4")) == "drain:rank=2,step=4,seconds=30"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kill", r"^fault 'kill': expected KIND:rank=R,step=S,phase=PHASE, as in kill:rank=3"),
        ("kil:rank=1,step=2,phase=step", "there is no kind 'kil'; give one of kill, hang, raise"),
        ("kill:rank=1,step=2,phase=fwd", "there is no phase 'fwd'; give one of start, step, forw"),
        ("hang:rank=1,step=2", "phase missing; give one of start, step, forward, backward"),
        ("kill:step=2,phase=step", "rank missing; expected KIND:rank=R"),
        ("kill:", "'' is not key=value; expected KIND"),
        ("kill:rank=1,stp=2,phase=step", r"unknown key stp; did you mean step\?"),
        ("kill:rank=1,rank=2,step=1,phase=step", "rank is given twice; give it once"),
        ("kill:rank=-1,step=2,phase=step", "rank is '-1'; give a whole number from 0 on"),
        ("kill:rank=1,step=1.5,phase=step", "step is '1.5'; give a whole number from 0 on"),
        (
            "node:rank=1,step=2,phase=step",
            "kind node happens to the node .* no phase; .* remove it",
        ),
        ("drain:rank=1,step=2,seconds=0", "seconds is 0; give a whole number from 1 on"),
        ("kill:rank=1,step=2,phase=step,seconds=3", "seconds is the notice of a drain; .* remove"),
    ],
)
def test_a_text_that_is_no_fault_says_what_is_allowed(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_fault(text)


@pytest.mark.parametrize("kind", NODE_KINDS)
def test_a_node_has_no_phase(kind: Any) -> None:
    with pytest.raises(ConfigError, match="it has no phase"):
        Fault(kind, 0, 0, "step")


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 60), st.integers(2, 7))
def test_faults_of_a_seed_are_spaced_and_all_can_happen(
    seed: int, ranks: int, count: int, stretch: int
) -> None:
    steps = count * stretch
    found = faults_of(seed, steps, ranks, count)
    assert found == faults_of(seed, steps, ranks, count)
    assert len(found) == count
    assert all(fault.rank < ranks and 1 <= fault.step < steps for fault in found)
    assert all(later.step - fault.step >= stretch // 2 for fault, later in pairwise(found))
    for number, fault in enumerate(found):
        replaced = {each.rank for each in found[number + 1 :] if each.kind in ("kill", "hang")}
        assert fault.phase != "start" or fault.rank in replaced


def test_many_faults_of_a_seed_have_every_kind_in_every_phase() -> None:
    found = faults_of(7, 400, 4, 64)
    every = {(kind, phase) for kind in PROCESS_KINDS for phase in OWN_PHASES}
    assert {(fault.kind, fault.phase) for fault in found} == every | {
        (kind, None) for kind in NODE_KINDS
    }
    assert found != faults_of(8, 400, 4, 64)
