"""One rank in this process that holds a complete model, trains it and writes its checkpoints."""

from pathlib import Path

from actors.commands import BuildCommand, RankReport, StepInput
from actors.epochs.membership import Membership
from actors.rank.rank import Rank
from actors.state.sources import Source
from moe.checkpoint.drafts import drafted
from moe.checkpoint.training import About, SaveContext, complete
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.config.share import whole
from moe.planning.plan.file import to_dict
from moe.planning.plan.plan import Plan, RankPlan, StagePlan
from pipelines.corpus.inputs import fingerprint

JOIN_SECONDS = 600.0


def plan_alone(config: ModelConfig, threads: int) -> Plan:
    """Return the plan of one rank that holds everything."""
    share = whole(config)
    rank = RankPlan(("here",), share.kv_heads, share.ffn, share.experts, threads)
    return Plan(config.summary(), (StagePlan(share.layers, (rank,)),))


class Solo:
    """Trains a run in this process. It is the rank of any run, in an epoch of its own."""

    def __init__(self, run: RunConfig, source: Source, length: int, threads: int) -> None:
        config = source.config()
        self._context = SaveContext(config, run, run.model.path, fingerprint(run.data.path))
        self._plan = plan_alone(config, threads)
        self.rank, seat = Rank(0), self._plan.seats.seat(0)
        self.rank.build(BuildCommand(self._plan, seat, length, run), source)
        store = self.rank.open_store(JOIN_SECONDS)
        seats, homes = self._plan.seats, self._plan.homes
        self.rank.join(Membership("solo", 1, seat, seats, homes, *store, JOIN_SECONDS))

    def step(self, batch: StepInput) -> RankReport:
        """Train one step."""
        return self.rank.train_step(batch)

    def save(self, to: Path, step: int) -> None:
        """Write a training checkpoint after ``step`` steps, which is a model directory too."""
        with drafted(to) as draft:
            self.rank.snapshot(step)
            about = About(self._context, to_dict(self._plan), step)
            complete(draft, about, [self.rank.write(draft, step)])

    def close(self) -> None:
        """Leave the epoch."""
        self.rank.abort()
