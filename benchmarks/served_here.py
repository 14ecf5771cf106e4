"""A server of tiny models with several replicas, on Ray in this process, for loads on it.

What is served is deployed anew while requests go on; ``benchmarks.server_process`` starts a server
that stays as it is, by its command.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import HTTPOptions

from benchmarks.material import CONFIG, small_demo
from benchmarks.server_process import free_port
from cluster.session import session
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.plan.file import save_plan
from moe.planning.search.make import make_plan
from moe.surgery.initialise import initialise
from pipelines.serving.app import build
from pipelines.serving.arguments import ServeArguments

NAME = "served"
POSITIONS = 1024
"""Tokens of a sequence; each is one character."""


class ServedHere:
    """An application that can be deployed again and again, with random weights of some seed."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self.url = f"http://127.0.0.1:{port}/v1"

    def deploy(self, seed: int, **arguments: Any) -> None:
        """Have a model served so, and return when that is done; requests go on meanwhile."""
        model = self._folder / f"model-{seed}"
        if not model.exists():
            make_model(model, seed)
        given = {"model": str(model), "plan": str(model / "plan.toml"), "name": NAME, "spares": 0}
        serve.run(build(given | arguments), name="bench")


@contextmanager
def served_here(folder: Path, cores: int) -> Iterator[ServedHere]:
    """Start Ray and Ray Serve; end all of it."""
    port = free_port()
    with session("local", cpus=cores):
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
        try:
            yield ServedHere(folder, port)
        finally:
            serve.shutdown()  # type: ignore[no-untyped-call]


def make_model(model: Path, seed: int) -> None:
    """Write a model, and the plan that gives it one thread."""
    config = replace(CONFIG, max_positions=POSITIONS)
    initialise(config, model, seed=seed)
    shutil.copy(small_demo() / "dense" / "tokenizer.json", model)
    there = Inventory((Device("any", "any", "cpu", 2**32),))
    work = ServeArguments(model=model).workload(config)
    save_plan(make_plan(config, there, stages=1, gang=1, workload=work), model / "plan.toml")
