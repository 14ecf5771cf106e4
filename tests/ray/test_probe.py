import pytest

from cluster.probe import probe
from cluster.session import Session

pytestmark = pytest.mark.ray


def test_this_machine_is_eight_logical_cores(ray_session: Session) -> None:
    devices = probe().devices
    assert len(devices) == 8
    assert len({device.node for device in devices}) == 1
    assert {(device.kind, device.threads) for device in devices} == {("cpu", 1)}
    assert all(device.memory_bytes > 2**20 for device in devices)
