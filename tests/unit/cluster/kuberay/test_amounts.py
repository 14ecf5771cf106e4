import pytest

from cluster.kuberay.amounts import quantity

GIB = 2**30


@pytest.mark.parametrize(
    ("memory_bytes", "text"),
    [(GIB, "1Gi"), (4 * GIB, "4Gi"), (GIB + 1, "1025Mi"), (1, "1Mi"), (3 * 2**29, "1536Mi")],
)
def test_bytes_are_written_as_kubernetes_does_and_never_rounded_down(
    memory_bytes: int, text: str
) -> None:
    assert quantity(memory_bytes) == text
