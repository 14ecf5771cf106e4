"""What an uneven split is worth: real steps of two stage actors, even layers against planned ones.

The pipelines take turns on the same batches in one run, each going first in every other turn;
ratios are medians over pairs of steps. Costs come from a profile measured before, in the same run
or given by ``--profile``. The limit is what two stages of equal seconds would give: no split of
whole layers does better.

Bars: planned over even 1.10 for SmolLM2 with 4 experts, top-2, and 1.15 for dense SmolLM2; steps
within 5 % of their prediction.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from actors.engine import over_ray
from actors.profiling.machine import measure
from actors.profiling.measure import Measuring
from actors.profiling.messages import link_of
from actors.profiling.profile import profile_of
from actors.state.sources import ModelSource
from benchmarks.results import DEMO, finish, options, parse
from benchmarks.run import bench_run
from cluster.probe import probe
from cluster.session import session
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.devices.inventory_file import Measurements, load_profile
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import Prediction, predict
from moe.planning.search.make import even_layers, make_plan
from pipelines.corpus.shards import TokenShards
from pipelines.planning.run_work import workload
from pipelines.training.batches import batches

MODELS = {"moe": ("SmolLM2, 4 experts", 1.10), "dense": ("SmolLM2, dense", 1.15)}
"""By the option that names its directory: what the table calls a model, and the bar of its gain."""

CLOSE = 0.05
MICRO_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Case:
    """One model with its plans, even and planned, and what was predicted for them."""

    run: RunConfig
    config: ModelConfig
    plans: dict[str, Plan]
    predictions: dict[str, Prediction]


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    shards = TokenShards.open(arguments.data, "train")
    rows: list[dict[str, object]] = []
    missed: list[str] = []
    for number, which in enumerate(arguments.models):
        (name, bar), model = MODELS[which], getattr(arguments, which)
        given = arguments.profile[number] if arguments.profile else None
        measured = _measured(arguments, given, model, shards.sequence_length)
        with session("local", cpus=2):
            case = _case(arguments, model, shards.sequence_length, measured)
            seconds = _steps(case, shards, arguments.turns)
        more, misses = _judge(name, bar, case, seconds)
        rows += more
        missed += misses
    finish(arguments, f"Two stage actors, {MICRO_BATCHES} micro-batches", rows, missed)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__ or "", material=False)
    parser.add_argument("--data", type=Path, default=DEMO / "tokens")
    parser.add_argument("--moe", type=Path, default=DEMO / "moe")
    parser.add_argument("--dense", type=Path, default=DEMO / "dense")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--steps", type=int, default=4, help="of a turn; one warms up")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--profile", type=Path, action="append", help="of each model, in order")
    parser.add_argument("--profile-seconds", type=float, default=8.0, help="of each part measured")
    return parse(parser, steps=2, turns=1, models=["moe"], profile_seconds=0.02)


def _measured(
    arguments: argparse.Namespace, given: Path | None, model: Path, length: int
) -> Measurements:
    if given is not None:
        return load_profile(given)
    config = Checkpoint.open(model).config
    seconds = arguments.profile_seconds
    asked = Measuring(config, length, (1,), ranks=2, threads=1, seconds=seconds)
    found = measure(asked)
    wires = [each.wire for each in found if each.wire is not None]
    return (profile_of(asked, found, "measured before"),), (link_of(wires),)


def _case(arguments: argparse.Namespace, model: Path, length: int, measured: Measurements) -> Case:
    run = bench_run(
        model, arguments.data, steps=arguments.steps, global_batch=MICRO_BATCHES, micro_batch=1
    )
    config = Checkpoint.open(model).config
    devices = probe(1).measured(*measured)
    wanted = workload(run, length, devices)
    planned = make_plan(config, devices, 2, 1, wanted)
    plans = {"even": even_layers(planned), "planned": planned}
    predictions = {which: predict(config, plan, devices, wanted) for which, plan in plans.items()}
    return Case(run, config, plans, predictions)


def _steps(case: Case, shards: TokenShards, turns: int) -> dict[str, list[float]]:
    """Let the pipelines take turns on the same batches; the first step of a turn warms up.

    Both at once would not leave room for each other on a small machine.
    """
    seconds: dict[str, list[float]] = {which: [] for which in case.plans}
    for turn in range(turns):
        order = list(case.plans.items())
        for which, plan in order if turn % 2 else reversed(order):
            engine = over_ray.train(
                case.run,
                plan,
                ModelSource(case.run.model.path.absolute()),
                shards.sequence_length,
            )
            try:
                found = [engine.train_step(each).seconds for each in batches(case.run, shards, 0)]
            finally:
                engine.shutdown()
            seconds[which] += found[1:]
    return seconds


def _judge(
    name: str, bar: float, case: Case, seconds: dict[str, list[float]]
) -> tuple[list[dict[str, object]], list[str]]:
    rows: list[dict[str, object]] = []
    missed = []
    for which, plan in case.plans.items():
        predicted, found = case.predictions[which].step_seconds, median(seconds[which])
        layers = ", ".join(str(len(stage.layer_numbers)) for stage in plan.stages)
        rows.append(_row(f"{name}, {which}", layers, found, predicted, found / predicted))
        if abs(found / predicted - 1) > CLOSE:
            missed.append(f"{name}, {which}: measured {found / predicted:.3f} of the prediction")
    pairs = zip(seconds["even"], seconds["planned"], strict=True)
    gain = median(even / planned for even, planned in pairs)
    even = case.predictions["even"].step_seconds
    rows.append(_row("  gain", "", gain, even / case.predictions["planned"].step_seconds, ""))
    rows.append(_row("  its limit", "", "", even / _least(case.predictions["planned"]), ""))
    if gain < bar:
        missed.append(f"{name}: {gain:.3f} x an even split, bar {bar}")
    return rows, missed


def _row(
    what: str, layers: str, measured: object, predicted: object, part: object
) -> dict[str, object]:
    return {
        "what": what,
        "layers": layers,
        "measured": measured,
        "predicted": predicted,
        "of prediction": part,
    }


def _least(predicted: Prediction) -> float:
    """Return the step of two stages that share the seconds of both equally."""
    each = sum(predicted.stage_seconds) / 2
    return (MICRO_BATCHES + 1) * each + predicted.after_seconds


if __name__ == "__main__":
    main()
