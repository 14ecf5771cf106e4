"""Traces: drawn as described, the file and back, every fault by its own message; who is there."""

import math
import statistics
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.failures.traces import (
    Event,
    Presence,
    SpotMarket,
    Trace,
    load_trace,
    poisson,
    save_trace,
    spot,
)

DAY = 86_400.0


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    counts = st.integers(0, 3)
    named = st.lists(st.integers(0, 99), unique=True)
    events = []
    seconds = 0.0
    for _ in range(draw(st.integers(0, 6))):
        seconds += draw(st.floats(0, 1e6))
        if draw(st.booleans()):
            lost, joined = draw(named.filter(bool)), draw(named)
            events.append(Event(seconds, len(lost), len(joined), (*lost, *joined)))
        else:
            events.append(Event(seconds, draw(counts) + 1, draw(counts)))
    return Trace(tuple(events), seconds + draw(st.floats(1e-3, 1e6)))


def load(tmp_path: Path, text: str) -> Trace:
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return load_trace(path)


@given(trace=traces())
def test_file_returns_the_same_value(
    trace: Trace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("trace") / "trace.csv"
    save_trace(trace, path)
    assert load_trace(path) == trace


def test_a_trace_without_names_has_three_columns(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    save_trace(Trace((Event(40.5, 2, 1),), 100.0), path)
    assert path.read_text(encoding="utf-8") == "seconds,lost,joined\n40.5,2,1\n100.0,0,0\n"


def test_the_file_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    trace = load(tmp_path, "\ufeffseconds,lost,joined\r\n\r\n5,1,0\r\n9,0,1\r\n")
    assert trace == Trace((Event(5.0, 1, 0), Event(9.0, 0, 1)), 9.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; write a first line seconds,lost,joined or"),
        ("time,lost,joined\n", "line 1 is 'time,lost,joined'; write a first line seconds"),
        ("seconds,lost,joined\n", "the trace ends at 0.0 s"),
        ("seconds,lost,joined\n0,0,0\n", "the trace ends at 0.0 s"),
        ("seconds,lost,joined\n5,1,0\nx,1,0\n", "line 3: seconds is 'x'; give a number"),
        ("seconds,lost,joined\n5,-1,0\n", "line 2: '-1' is not a count"),
        ("seconds,lost,joined\n5,1.0,0\n", "line 2: '1.0' is not a count"),
        ("seconds,lost,joined\n5,²,0\n", "line 2: '²' is not a count"),
        ("seconds,lost,joined\n5,1\n", "line 2 has 2 fields, the header 3"),
        ("seconds,lost,joined\n-5,1,0\n", "line 2: -5.0 s comes after 0.0 s"),
        ("seconds,lost,joined\n9,1,0\n5,1,0\n", "line 3: 5.0 s comes after 9.0 s"),
        ("seconds,lost,joined\n9,0,0\n10,1,0\n", r"line 3: line 2 ends the trace"),
        ("seconds,lost,joined\ninf,1,0\n", "line 2: an event is at inf s"),
        ("seconds,lost,joined\nnan,0,0\n", "the trace ends at nan s"),
        ("seconds,lost,joined,devices\n5,2,0,1\n", "line 2: .* names 1 devices but has 2 lost"),
        ("seconds,lost,joined,devices\n5,2,0,1 1\n", r"line 2: .* names devices \(1, 1\)"),
        ('seconds,lost,joined\n5,"1,0\n', "is not CSV"),
    ],
)
def test_a_faulty_file_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        load(tmp_path, text)


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no trace at .*absent\.csv; write a first line"):
        load_trace(tmp_path / "absent.csv")
    with pytest.raises(PlanError, match="cannot read the trace"):
        load_trace(tmp_path)
    with pytest.raises(PlanError, match="cannot write the trace"):
        save_trace(Trace((), 1.0), tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="is not text"):
        load_trace(tmp_path / "binary.csv")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Event(1.0, 0, 0), "has 0 lost and 0 joined"),
        (lambda: Event(1.0, -1, 2), "has -1 lost"),
        (lambda: Event(math.nan, 1, 0), "an event is at nan s"),
        (lambda: Event(1.0, 1, 0, (-1,)), r"names devices \(-1,\)"),
        (lambda: Trace((Event(5.0, 1, 0), Event(4.0, 1, 0)), 9.0), "order the events by time"),
        (lambda: Trace((Event(5.0, 1, 0),), 4.0), "after the end of the trace at 4.0 s"),
        (lambda: poisson(0, 1.0, 1.0, 0), "devices is 0"),
        (lambda: poisson(1, 0.0, 1.0, 0), "cluster_mtbf_seconds is 0.0"),
        (lambda: poisson(1, 1.0, 0.0, 0), "horizon_seconds is 0.0"),
        (lambda: poisson(1, 1.0, 1.0, 0, repair_seconds=-1.0), "repair_seconds is -1.0"),
        (lambda: SpotMarket(burst_size=0.5), "burst_size is 0.5"),
        (lambda: SpotMarket(return_seconds=0.0), "return_seconds is 0.0"),
    ],
)
def test_impossible_values_are_refused(make: object, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make()  # type: ignore[operator]


def test_poisson_failures_are_as_frequent_and_as_irregular_as_asked() -> None:
    trace = poisson(8, 600.0, 100 * DAY, seed=1)
    times = [event.seconds for event in trace.events]
    gaps = [after - before for before, after in pairwise([0.0, *times])]
    assert trace.losses == pytest.approx(100 * DAY / 600, rel=0.02)
    assert trace.mtbf_seconds == pytest.approx(600.0, rel=0.02)
    assert statistics.stdev(gaps) == pytest.approx(600.0, rel=0.03)
    assert {event.devices for event in trace.events} == {(d, d) for d in range(8)}
    assert {(event.lost, event.joined) for event in trace.events} == {(1, 1)}


def test_a_seed_draws_one_trace() -> None:
    assert poisson(4, 60.0, DAY, seed=3) == poisson(4, 60.0, DAY, seed=3)
    assert poisson(4, 60.0, DAY, seed=3) != poisson(4, 60.0, DAY, seed=4)


def test_a_device_under_repair_does_not_fail() -> None:
    trace = poisson(4, 60.0, 10 * DAY, seed=2, repair_seconds=240.0)
    back = dict.fromkeys(range(4), 0.0)
    for event in trace.events:
        (device,) = event.devices
        if event.lost:
            assert event.seconds >= back[device]
            back[device] = event.seconds + 240.0
        else:
            assert event.seconds == back[device]
    # Each device is up for 240 s on average, then down for as long.
    assert trace.losses == pytest.approx(4 * 10 * DAY / 480, rel=0.03)


def test_spot_losses_come_in_bursts_of_neighbours_and_return() -> None:
    market = SpotMarket(
        burst_interval_seconds=3600.0,
        burst_size=3.0,
        burst_spread_seconds=10.0,
        return_seconds=300.0,
    )
    trace = spot(64, market, 200 * DAY, seed=5)
    lost = [event for event in trace.events if event.lost]
    bursts = [[lost[0]]]
    for before, after in pairwise(lost):
        if after.seconds - before.seconds > 10.0:
            bursts.append([])
        bursts[-1].append(after)
    assert len(bursts) == pytest.approx(200 * 24, rel=0.05)
    assert len(lost) / len(bursts) == pytest.approx(3.0, rel=0.06)
    pairs = [(a, b) for burst in bursts if len(burst) == 2 for a, b in [burst]]
    near = sum((a.devices[0] - b.devices[0]) % 64 in (1, 63) for a, b in pairs)
    assert near / len(pairs) > 0.9
    outages = []
    gone: dict[int, float] = {}
    for event in trace.events:
        (device,) = event.devices
        if event.lost:
            gone[device] = event.seconds
        else:
            outages.append(event.seconds - gone.pop(device))
    assert statistics.mean(outages) == pytest.approx(300.0, rel=0.03)


def test_bursts_of_one_are_single_losses() -> None:
    trace = spot(8, SpotMarket(burst_size=1.0, burst_spread_seconds=0.0), 50 * DAY, seed=1)
    assert trace.losses == pytest.approx(50 * DAY / 1800, rel=0.06)


@given(
    devices=st.integers(1, 9),
    size=st.floats(1, 20),
    spread=st.floats(0, 5000),
    seed=st.integers(0, 2**32),
)
def test_spot_traces_can_be_played(devices: int, size: float, spread: float, seed: int) -> None:
    presence = Presence(devices, Random(0))
    for event in spot(devices, SpotMarket(500.0, size, spread, 900.0), DAY / 4, seed).events:
        lost = presence.lose(event)
        assert lost == set(event.lost_devices)
        presence.join(event)
        assert presence.present >= set(event.joined_devices)


def test_a_spare_takes_the_number_of_the_lost() -> None:
    presence = Presence(3, Random(0))
    presence.join(Event(1.0, 0, 2))
    assert presence.present == {0, 1, 2}
    assert presence.lose(Event(2.0, 1, 0, (1,))) == {1}
    presence.join(Event(2.0, 1, 0, (1,)))
    assert presence.present == {0, 1, 2}
    presence.join(Event(3.0, 0, 1, (1,)))  # its own place is taken: a spare again
    for seconds in (4.0, 5.0):
        presence.lose(Event(seconds, 1, 0, (2,)))
        presence.join(Event(seconds, 1, 0, (2,)))
        assert presence.present == {0, 1, 2}
    presence.lose(Event(6.0, 1, 0, (2,)))
    presence.join(Event(6.0, 1, 0, (2,)))
    assert presence.present == {0, 1}


def test_unknown_losses_hit_places_and_spares_alike() -> None:
    hits = 0
    for seed in range(400):
        presence = Presence(3, Random(seed))
        presence.join(Event(0.0, 0, 9))
        hits += len(presence.lose(Event(1.0, 4, 0)))
    assert hits / 400 == pytest.approx(4 * 3 / 12, abs=0.12)


def test_more_losses_than_devices_are_refused() -> None:
    with pytest.raises(PlanError, match=r"loses 3 devices at 7.0 s but 2 are there"):
        Presence(2, Random(0)).lose(Event(7.0, 3, 0))
    with pytest.raises(
        PlanError, match=r"loses device 5 at 7.0 s but it is not there: 2 of devices 0 to 1 are"
    ):
        Presence(2, Random(0)).lose(Event(7.0, 1, 0, (5,)))
