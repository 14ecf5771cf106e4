"""Where recomputing decides whether a plan fits: planned for less memory, seen in the actors.

Two stage actors train dense SmolLM2 with micro-batches that keep far more than its weights. Planned
for devices with all the memory they want, and for devices with a limit that only recomputing meets:
there a plan that recomputes nothing is refused, and the plan that is found trains below the limit.

Bars: resident memory of every actor below the limit under the second plan, above it under the
first; both within 10 % of what was predicted, the process itself included; the same losses.
"""

from dataclasses import replace

from actors.engine import over_ray
from actors.state.sources import ModelSource
from benchmarks.results import DEMO, finish, options, parse
from benchmarks.run import bench_run
from cluster.probe import probe
from cluster.session import session
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import bytes_per_rank
from moe.planning.search.make import make_plan
from moe.planning.search.pins import Pins
from moe.planning.search.search import Question, search
from pipelines.corpus.shards import TokenShards
from pipelines.planning.run_work import workload
from pipelines.training.batches import batches

CLOSE = 0.10
STEPS, MICRO_BATCH, MICRO_BATCHES = 2, 4, 2


def main() -> None:
    """Plan twice, refuse once, train twice."""
    parser = options(__doc__ or "")
    parser.set_defaults(model=DEMO / "dense")
    parser.add_argument(
        "--limit", type=float, default=0.5, help="memory, from all recomputed (0) to nothing (1)"
    )
    arguments = parse(parser, limit=0.25)
    train = {"steps": STEPS, "global_batch": MICRO_BATCH * MICRO_BATCHES}
    run = bench_run(arguments.model, arguments.data, micro_batch=MICRO_BATCH, **train)
    config = Checkpoint.open(arguments.model).config
    shards = TokenShards.open(arguments.data, "train")
    with session("local", cpus=2):
        there = probe(1)
        wanted = workload(run, shards.sequence_length, there)
        plenty = make_plan(config, there, 2, 1, wanted)
        limit = _limit(config, plenty, wanted, arguments.limit)
        scarce = _limited(there, limit)
        plans = {"plenty": plenty, "scarce": make_plan(config, scarce, 2, 1, wanted)}
        refusal = _refused(config, scarce, wanted, plans["scarce"])
        found = {which: _train(run, plan, shards) for which, plan in plans.items()}
    rows = []
    missed = [] if refusal else ["a plan without recomputing was made for the scarce devices"]
    for which, plan in plans.items():
        more, misses = _judge(
            which, plan, bytes_per_rank(config, plan, wanted), found[which], limit
        )
        rows += more
        missed += misses
    if found["plenty"][1] != found["scarce"][1]:
        missed.append(f"losses differ: {found['plenty'][1]} and {found['scarce'][1]}")
    title = f"Dense SmolLM2, micro-batches of {wanted.tokens} tokens, limit {limit / 1e9:.2f} GB"
    finish(arguments, title, rows, missed)


def _limit(config: ModelConfig, plan: Plan, wanted: Workload, part: float) -> int:
    """Return the bytes between recomputing every layer (``part`` 0) and keeping all (1)."""
    stages = (replace(each, recompute=each.layer_numbers) for each in plan.stages)
    lean = replace(plan, stages=tuple(stages))
    most, least = (max(bytes_per_rank(config, each, wanted)) for each in (plan, lean))
    return int(least + part * (most - least))


def _limited(inventory: Inventory, limit: int) -> Inventory:
    devices = (replace(device, memory_bytes=limit) for device in inventory.devices)
    return replace(inventory, devices=tuple(devices))


def _refused(config: ModelConfig, inventory: Inventory, wanted: Workload, plan: Plan) -> str:
    """Return why the same layers do not fit without recomputing; empty if they do."""
    layers = tuple(len(stage.layer_numbers) for stage in plan.stages)
    pins = Pins(2, 1, 1, MICRO_BATCH, layers, recompute=(0, 0))
    sequences = wanted.micro_batch * wanted.micro_batches
    try:
        search(Question(config, inventory, wanted, sequences, pins))
    except PlanError as error:
        return str(error)
    return ""


def _train(run: RunConfig, plan: Plan, shards: TokenShards) -> tuple[tuple[int, ...], list[float]]:
    """Return the most memory each actor held, and the losses."""
    engine = over_ray.train(
        run, plan, ModelSource(run.model.path.absolute()), shards.sequence_length
    )
    try:
        reports = [engine.train_step(batch) for batch in batches(run, shards, 0)]
    finally:
        engine.shutdown()
    return reports[-1].peak_bytes, [report.loss for report in reports]


def _judge(
    which: str,
    plan: Plan,
    predicted: tuple[int, ...],
    found: tuple[tuple[int, ...], list[float]],
    limit: int,
) -> tuple[list[dict[str, object]], list[str]]:
    rows: list[dict[str, object]] = []
    missed = []
    for rank, (wanted, held) in enumerate(zip(predicted, found[0], strict=True)):
        stage = plan.stages[rank]
        rows.append(
            {
                "what": f"{which}, stage {rank}",
                "layers": len(stage.layer_numbers),
                "recomputed": len(stage.recompute),
                "predicted GB": wanted / 1e9,
                "resident GB": held / 1e9,
                "of prediction": held / wanted,
            }
        )
        if abs(held / wanted - 1) > CLOSE:
            missed.append(f"{which}, stage {rank}: {held / wanted:.2f} of the predicted memory")
    if (max(found[0]) > limit) != (which == "plenty"):
        missed.append(f"{which}: {max(found[0]) / 1e9:.2f} GB against a limit of {limit / 1e9:.2f}")
    return rows, missed


if __name__ == "__main__":
    main()
