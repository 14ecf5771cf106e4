"""What a seed makes of a soak."""

from hypothesis import given
from hypothesis import strategies as st

from tests.soak.harms import harms_of


@given(st.integers(0, 999), st.integers(5, 60), st.integers(8, 20))
def test_each_harm_has_a_stretch_of_its_own(seed: int, count: int, stretch: int) -> None:
    harms = harms_of(seed, count * stretch, 4, count)
    assert harms == harms_of(seed, count * stretch, 4, count)
    steps = [each.step for each in (*harms.faults, *harms.blows)]
    assert {step // stretch for step in steps} == {*range(count)}
    resizes = [blow.step for blow in harms.blows if blow.kind == "resize"]
    assert [fault.step for fault in harms.faults if fault.phase == "resize"] == resizes
    assert harms.count == count + len(resizes)
    assert len({blow.kind for blow in harms.blows}) == min(len(harms.blows), 3)
