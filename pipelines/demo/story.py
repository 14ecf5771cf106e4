"""One story of an elastic run on this machine: every command of raymoe, as a user types it.

``make story`` runs it, in a new directory ``story/``. A small dense model is trained, upcycled and
trained on over five Ray nodes of this machine, while an actor is killed and a node leaves, and the
run is scaled. A report of the run is written; the model is quantised, evaluated and served under
load; Kubernetes objects of the demo's model are rendered.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"  # the nodes of a story have no token, before Ray looks

import httpx
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.text import Text

from cluster.journal import JOURNAL
from moe.checkpoint.manifest import checkpoints
from moe.config.run import RunConfig, load_run
from moe.errors import RaymoeError
from moe.storage import local
from moe.surgery.initialise import initialise
from pipelines.corpus.inputs import TOKENIZER
from pipelines.fetching.texts import DEFAULT_SOURCES, fetch_texts
from pipelines.study.sizes import DENSE
from pipelines.study.text import VOCABULARY, write_vocabulary
from pipelines.training.recording import recorded_steps

ROOT = Path("story")
RUN_FOLDER, SMALL = ROOT / "run", ROOT / "int8"
"""What each story makes anew."""

DENSE_RUN, RUN = Path("manifests/runs/story-dense.toml"), Path("manifests/runs/story.toml")
KIND = Path("manifests/runs/smollm2-kind.toml")
DEPLOYMENT = Path("manifests/deployments/kind-cpu.toml")
MODEL = replace(DENSE, hidden_size=256, heads=8, kv_heads=8, head_size=32, ffn_size=768, layers=8)
LENGTH = 128
NODES, PORT = 5, 8123
PATIENCE = 600.0
KILLED, DRAINED, SCALED = 20, 60, 100
"""Steps at which an actor is killed, a node is told to leave, and a replica is added."""


class StoryEnded(RaymoeError):
    """A command of the story did not do what it should."""


class Story:
    """The commands in their order, on one console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._environment = dict(os.environ)

    def run(self) -> None:
        """Tell the whole story."""
        self._title("A small dense model, trained on real text")
        self._made(ROOT / "dense" / TOKENIZER, self._begin)
        tokens, dense, moe = ROOT / "tokens", load_run(DENSE_RUN), load_run(RUN).model.path
        words = ("--model", dense.model.path, "--to", tokens, "--sequence-length", LENGTH)
        self._made(tokens, lambda: self._raymoe("tokenize", ROOT / "text", *words))
        self._raymoe("train", DENSE_RUN, "--resume-if-saved")
        self._title("Upcycled to eight experts a layer")
        experts = ("--experts", 8, "--top-k", 2, "--gate-norm", 1)
        self._made(moe, lambda: self._raymoe("upcycle", _last(dense), "--to", moe, *experts))
        for earlier in (RUN_FOLDER, SMALL):
            shutil.rmtree(earlier, ignore_errors=True)
        with self._nodes():
            self._title(f"A cluster of {NODES} nodes, of which one leaves; an actor is killed")
            self._elastic()
        self._raymoe("report", RUN, "--to", ROOT / "report.html")
        self._title("Eight bits")
        trained = _last(load_run(RUN))
        self._raymoe("compress", trained, "--to", SMALL, "--quantise", "int8", "--data", tokens)
        for each in (_last(dense), moe, trained, SMALL):
            self._raymoe("evaluate", each, "--data", tokens, "--rows", 32)
        self._title("Served under load")
        with self._server("serve", trained, "--weights", "int8", "--port", PORT):
            self._load(requests=64, clients=8)
        self._title("On Kubernetes")
        model = ("--model", "manifests/models/smollm2-moe")
        self._raymoe(
            "kube", "render", KIND, *model, "--deployment", DEPLOYMENT, "--to", ROOT / "job.yaml"
        )
        self._title("Done")

    def _made(self, result: Path, make: Callable[[], None]) -> None:
        """Make a result, unless an earlier story did."""
        if result.exists():
            self._say(f"kept {result} of an earlier story")
        else:
            make()

    def _begin(self) -> None:
        """Write the text, a vocabulary out of it, and a dense model with random weights."""
        text, model = ROOT / "text", ROOT / "dense"
        ROOT.mkdir(exist_ok=True)
        if not text.exists():
            fetch_texts(DEFAULT_SOURCES, text, self._say)
        shutil.rmtree(model, ignore_errors=True)
        initialise(MODEL, model, seed=0)
        write_vocabulary(text, model)

    def _elastic(self) -> None:
        """Train while the run is harmed and scaled; the command ends with the last step."""
        work = ("--sequence-length", LENGTH, "--micro-batch", 2, "--micro-batches", 4)
        plan, there = load_run(RUN).plan.path, ("--ray", "--address", "auto")
        self._raymoe("plan", ROOT / "moe", *there, "--to", plan, "--stages", 2, "--gang", 1, *work)
        faults = (
            f"kill:rank=1,step={KILLED},phase=backward",
            f"drain:rank=0,step={DRAINED},seconds=60",
        )
        asked = [word for fault in faults for word in ("--fault", fault)]
        training = self._start("train", RUN, *asked)
        try:
            self._until_step(SCALED, training)
            self._raymoe("scale", "story", "--replicas", 2)
            if training.wait(PATIENCE):
                raise StoryEnded(f"raymoe train ended with {training.returncode}")
        finally:
            training.terminate()
            training.wait(PATIENCE)

    def _load(self, requests: int, clients: int) -> None:
        url = f"http://127.0.0.1:{PORT}/v1"
        load = ("--requests", requests, "--concurrency", clients, "--output-tokens", 32)
        self._raymoe("bench", "serve", "--url", url, "--vocabulary", VOCABULARY, *load)

    def _until_step(self, step: int, training: "subprocess.Popen[bytes]") -> None:
        """Wait for a step of the run to be recorded."""
        until = time.monotonic() + PATIENCE
        run = load_run(RUN)
        while _steps_done(run) < step:
            if training.poll() is not None:
                raise StoryEnded(f"raymoe train ended with {training.returncode} before its time")
            if time.monotonic() > until:
                raise StoryEnded(f"step {step} was not done within {PATIENCE:g} s")
            time.sleep(0.2)

    @contextmanager
    def _server(self, *words: object) -> Iterator[None]:
        """Run a server until the block ends; the block begins once it is healthy."""
        server = self._start(*words)
        try:
            self._until_healthy(server)
            yield
        finally:
            server.terminate()
            server.wait(PATIENCE)

    def _until_healthy(self, server: "subprocess.Popen[bytes]") -> None:
        until = time.monotonic() + PATIENCE
        while server.poll() is None and time.monotonic() < until:
            try:
                if httpx.get(f"http://127.0.0.1:{PORT}/health").is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        raise StoryEnded("the server was not healthy in time")

    @contextmanager
    def _nodes(self) -> Iterator[None]:
        """Start Ray nodes with room for one rank each, and end them with the block."""
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        try:
            for _ in range(NODES):
                cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
            self._environment["RAY_ADDRESS"] = str(cluster.address)
            yield
        finally:
            del self._environment["RAY_ADDRESS"]
            cluster.shutdown()  # type: ignore[no-untyped-call]

    def _raymoe(self, *words: object) -> None:
        """Run a command to its end."""
        command = self._start(*words)
        if command.wait():
            raise StoryEnded(f"raymoe {words[0]} ended with {command.returncode}")

    def _start(self, *words: object) -> "subprocess.Popen[bytes]":
        typed = [str(word) for word in words]
        self._console.print(Text("$ raymoe " + " ".join(typed), style="bold"))
        command = [sys.executable, "-m", "pipelines.cli", *typed]
        return subprocess.Popen(command, env=self._environment)

    def _title(self, title: str) -> None:
        minutes = (time.monotonic() - self._started) / 60
        self._console.print(f"\n[bold cyan]{title}[/]  [dim]{minutes:.1f} min[/]")

    def _say(self, line: str) -> None:
        self._console.print(f"  {line}", highlight=False, markup=False, style="dim")


def _steps_done(run: RunConfig) -> int:
    journal = local(run.checkpoint.path) / JOURNAL
    return len(recorded_steps(run.checkpoint.path)) if journal.exists() else 0


def _last(run: RunConfig) -> Path:
    """Return the last checkpoint of a run."""
    return local(checkpoints(run.checkpoint.path)[-1])


def main() -> None:
    """Tell the story; a failure is one line."""
    console = Console()
    try:
        Story(console).run()
    except (RaymoeError, OSError) as error:
        console.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(1)


if __name__ == "__main__":
    main()
