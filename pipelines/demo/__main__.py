"""The whole story on this machine: a real model, real text, upcycle, plan, train, evaluate, serve.

``make demo`` runs it. Parts that are finished are kept in ``demo/`` and not done twice.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from openai import OpenAIError
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.journal import JOURNAL
from cluster.nodes import inventory
from cluster.probe import nodes_of_ray
from cluster.session import session
from moe.checkpoint.manifest import checkpoints
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig, load_run
from moe.errors import RaymoeError
from moe.planning.plan.file import save_plan
from moe.planning.search.make import make_plan
from moe.storage import local
from moe.surgery.upcycle import UpcycleOptions, upcycle
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from pipelines.demo.client import ask
from pipelines.fetching.smollm2 import fetch_smollm2
from pipelines.fetching.texts import DEFAULT_SOURCES, fetch_texts
from pipelines.models.evaluate import EvaluateOptions, Evaluation, evaluate
from pipelines.planning.probing import probed
from pipelines.planning.run_work import workload
from pipelines.screen.model_tables import receipt_table
from pipelines.screen.plan_table import plan_summary
from pipelines.screen.progress import counted, training_view
from pipelines.training.copy_room import without_copies
from pipelines.training.recording import recorded_steps
from pipelines.training.run_plan import wanted
from pipelines.training.train import train

ROOT = Path("demo")
RUN = Path("manifests/runs/smollm2-demo.toml")
SEQUENCE_LENGTH = 256
EVALUATED_ROWS = 24
PROMPT = "In one sentence, what is a lambda expression in Python?"


class Demo:
    """The parts in their order, on one console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    def run(self) -> None:
        """Tell the whole story."""
        dense, moe, text, tokens = (ROOT / name for name in ("dense", "moe", "text", "tokens"))
        run = load_run(RUN)
        self._part("A real dense model", dense, lambda: fetch_smollm2(dense, self._say))
        self._part("Real text", text, lambda: fetch_texts(DEFAULT_SOURCES, text, self._say))
        self._part("Text to tokens", tokens, lambda: self._tokenize(text, dense, tokens))
        self._part("Upcycle: four experts a layer", moe, lambda: self._upcycle(dense, moe))
        self._title("Plan, and train through Ray Train: two stages, two actors")
        trained = self._train(run)
        self._title("Held-out loss")
        models = {"dense": dense, "upcycled": moe, "trained": trained}
        results = {name: self._evaluate(run, model) for name, model in models.items()}
        self._title("Serve, and ask through the OpenAI client")
        self._say(PROMPT)
        answer = Text(ask(trained, PROMPT, self._say))
        self._console.print(Panel(answer, title="the trained MoE"))
        self._console.print(_results(results, recorded_steps(run.checkpoint.path)))
        self._console.print(_next_steps(trained, time.monotonic() - self._started))

    def _part(self, title: str, result: Path, make: Callable[[], object]) -> None:
        self._title(title)
        if result.exists():
            self._say(f"kept {result} of an earlier demo")
        else:
            make()

    def _tokenize(self, text: Path, dense: Path, tokens: Path) -> None:
        options = TokenizeOptions(sequence_length=SEQUENCE_LENGTH)
        tokenize([text], dense, tokens, options, self._say)

    def _upcycle(self, dense: Path, moe: Path) -> None:
        options = UpcycleOptions(experts=4, top_k=2, gate_norm=1.0)
        with counted(self._console, "copying every feed-forward", "MB") as progress:
            receipt = upcycle(dense, moe, options, progress)
        self._console.print(receipt_table(receipt))

    def _train(self, run: RunConfig) -> Path:
        """Train to the end, or from where an earlier demo was interrupted."""
        saved = checkpoints(run.checkpoint.path)
        if saved and saved[-1].name.endswith(f"-{run.train.steps:08d}"):
            self._say(f"kept {saved[-1]} of an earlier demo")
            return saved[-1]
        cores = max(os.cpu_count() or 1, 2)
        with session("local", cpus=cores):
            self._plan(run, threads=cores // 2)
            with training_view(self._console, run.train.steps) as view:
                return local(train(run, "if-saved", view.start, view.step, view.tell))

    def _plan(self, run: RunConfig, threads: int) -> None:
        """Split the model over the two halves of this machine."""
        config, nodes = Checkpoint.open(run.model.path).config, nodes_of_ray()
        there = inventory(nodes, threads)
        found = probed(there, nodes, wanted(run, config, SEQUENCE_LENGTH))
        for note in found.notes:
            self._say(note)
        devices = found.applied(there, nodes)
        work = workload(without_copies(run), SEQUENCE_LENGTH, devices)
        plan = make_plan(config, devices, stages=2, gang=1, workload=work)
        assert run.plan.path is not None
        save_plan(plan, run.plan.path)
        self._console.print(plan_summary(config, plan, devices, work, self._console.width))

    def _evaluate(self, run: RunConfig, model: Path) -> Evaluation:
        factor = run.routing.virtual_capacity_factor
        options = EvaluateOptions(rows=EVALUATED_ROWS, virtual_capacity_factor=factor)
        with counted(self._console, f"evaluating {model.name}") as progress:
            result = evaluate(model, run.data.path, options, progress)
        self._say(f"{model}: {result.loss:.4f} nats per token")
        return result

    def _title(self, title: str) -> None:
        self._console.print(f"\n[bold cyan]{title}[/]")

    def _say(self, line: str) -> None:
        self._console.print(f"  {line}", highlight=False, markup=False, style="dim")


def _results(results: dict[str, Evaluation], steps: Sequence[Mapping[str, Any]]) -> Table:
    speed = median(step["tokens_per_second"] for step in steps)
    table = Table(
        title="\nHeld-out text",
        caption=(
            f"training: {len(steps)} steps, loss {steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}"
            f", drop rate {steps[0]['drop_rate']:.1%} to {steps[-1]['drop_rate']:.1%}"
            f", {speed:.0f} tokens/s"
        ),
    )
    for heading in ("model", "loss", "perplexity", "drop rate", "tokens/s"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, result in results.items():
        drop = f"{result.drop_rate:.1%}" if result.layers else "-"
        pace = f"{result.tokens / result.seconds:.0f}"
        table.add_row(name, f"{result.loss:.4f}", f"{result.perplexity:.2f}", drop, pace)
    return table


def _next_steps(trained: Path, seconds: float) -> str:
    return (
        f"\nDone in {seconds / 60:.1f} minutes. Where to look next:\n"
        f"  raymoe serve {trained}        the same model, until you interrupt it\n"
        f"  raymoe evaluate {trained} --data {ROOT / 'tokens'}   every router\n"
        f"  {ROOT / 'run' / JOURNAL}      every number of every step\n"
        f"  {ROOT / 'moe' / 'receipt.json'}      what the upcycling did, exactly\n"
        f"  {RUN}      the run; docs/architecture.md, the house"
    )


def main() -> None:
    """Run the demo; a failure is one line."""
    console = Console()
    try:
        Demo(console).run()
    except (RaymoeError, OSError, OpenAIError) as error:
        console.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("interrupted; `make demo` continues where it stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
