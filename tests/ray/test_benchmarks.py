"""Every benchmark that starts Ray runs in its smallest form, in the session of these tests."""

from pathlib import Path

import pytest

from benchmarks import every
from cluster.session import Session
from tests import benches

pytestmark = pytest.mark.ray


LONG = {"living", "one_curve", "proxies", "recovery", "rolling", "routing"}
"""Each starts several runs or servers after another; ``make soak`` starts them."""

NAMES = [
    pytest.param(name, marks=pytest.mark.long if name in LONG else ())
    for name in every.names()
    if every.starts_ray(name)
]


@pytest.mark.parametrize("name", NAMES)
def test_benchmark_runs(
    name: str,
    ray_session: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    benches.start(name, tmp_path, monkeypatch, capsys)
