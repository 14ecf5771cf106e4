"""Runs under Ray Train, watched step by step, and the processes that take part in them."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from safetensors.torch import load_file
from torch import Tensor

from actors.calls import Answer
from actors.commands import StepReport
from actors.crew.crew import Crew
from actors.crew.roster import roster
from cluster.session import Session
from moe.config.fault import Fault
from moe.config.run import RunConfig
from moe.planning.plan.seats import Seat
from pipelines.training.beginning import Resume
from pipelines.training.recording import recorded_steps
from pipelines.training.train import train
from tests.remains import remains, shared_memory


def trained(
    run: RunConfig,
    resume: Resume = "never",
    on_step: Any = None,
    tell: Callable[[str], object] = str,
    faults: Sequence[Fault] = (),
) -> list[StepReport]:
    """Train to the end and return every report; nothing else may be left of the run."""
    reports: list[StepReport] = []
    before = shared_memory()

    def watch(report: StepReport) -> None:
        reports.append(report)
        if on_step is not None:
            on_step(report)

    try:
        train(run, resume, lambda plan, session: None, watch, tell, faults)
    finally:
        if ray.is_initialized():
            assert remains(run.name, run.checkpoint.path, before) == []
    return reports


def begun(run: RunConfig, file: Path, resume: Resume = "never") -> "subprocess.Popen[bytes]":
    """Start a run in a process of its own, which prints the number of every step."""
    file.write_text(json.dumps(run.model_dump(mode="json")))
    code = (
        "import json, signal, sys; from moe.config.run import parse_run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pipelines.training.train import train\n"
        "train(parse_run(json.load(open(sys.argv[1])), 'run'), sys.argv[2], lambda p, s: None, "
        "lambda r: print(r.step, flush=True))"
    )
    command = [sys.executable, "-c", code, str(file), resume]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def losses(run: RunConfig) -> list[float]:
    """Return the loss of every step, each recorded once."""
    records = recorded_steps(run.checkpoint.path)
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    return [record["loss"] for record in records]


def once(step: int, act: Callable[[], None]) -> Callable[[StepReport], None]:
    """Return a watcher that acts when it first sees a step at or beyond the given one."""
    done = threading.Event()

    def watch(report: StepReport) -> None:
        if report.step >= step and not done.is_set():
            done.set()
            act()

    return watch


def pids(run: RunConfig, ranks: int) -> list[int]:
    """Return the processes of a run's actors by rank."""
    lives = roster(run.name, 60.0)
    assert len(lives) == ranks
    return [lives[seat].tell("status").result(60.0).pid for seat in sorted(lives)]


def every(crew: Crew, method: str) -> dict[Seat, Answer]:
    """Give every rank a command without arguments."""
    return {seat: crew.tell(seat, method) for seat in crew.seats}


def driver_pids(session: Session) -> list[int]:
    """Return the processes of the driving workers."""
    from ray.util.state import list_actors

    alive = list_actors(session.dashboard_url, [("state", "=", "ALIVE")])
    return [int(actor.pid) for actor in alive if "RayTrainWorker" in actor.class_name]


def tensors_of(checkpoint: Path) -> dict[str, Tensor]:
    """Return weights and moments by name, whoever wrote them."""
    files = [*checkpoint.glob("*.safetensors"), *checkpoint.glob("optimizer/*.safetensors")]
    return {name: value for file in sorted(files) for name, value in load_file(file).items()}
