"""What the process of a rank finds in its environment, and what it leaves alone."""

import os

import pytest

from actors.epochs.environment import prepare


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An empty environment for the time of a test."""
    empty: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", empty)
    return empty


def test_a_rank_s_groups_and_memory_are_set_up(environment: dict[str, str]) -> None:
    environment.clear()  # pytest has put something there
    prepare()
    assert environment == {
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "2",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
        "CUDA_MODULE_LOADING": "EAGER",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }


def test_both_backends_use_the_interface_where_the_rank_is_reached(
    environment: dict[str, str],
) -> None:
    prepare("127.0.0.1")
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert environment["NCCL_SOCKET_IFNAME"] == "=lo"
    environment.clear()
    prepare("203.0.113.7")
    assert "GLOO_SOCKET_IFNAME" not in environment


@pytest.mark.parametrize("allocator", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_what_somebody_has_set_stays(allocator: str, environment: dict[str, str]) -> None:
    given = {
        "NCCL_SOCKET_IFNAME": "ib0",
        "CUDA_MODULE_LOADING": "LAZY",
        allocator: "max_split_size_mb:64",
    }
    environment.update(given)
    prepare("127.0.0.1")
    assert {name: environment[name] for name in given} == given
    assert sum("ALLOC_CONF" in name for name in environment) == 1
