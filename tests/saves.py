"""Checkpoints written by savers in threads: any plan, any number of replicas, no processes."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
from hypothesis import strategies as st
from torch import Tensor

from actors.state.saver import RankSaver
from moe.checkpoint import training
from moe.checkpoint.buffers import Buffers
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MOMENTS, OwnedState, WrittenFiles
from moe.checkpoint.transfer import DirectTransfer
from moe.config.balance_state import BalanceState
from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.config.ranges import TensorRange
from moe.config.share import Share, whole
from moe.config.tensors import TensorSlice, held_by, tensors
from moe.errors import ConfigError
from moe.planning.plan.file import to_dict
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.storage import Location, make_directory
from tests import plans, runs

SECONDS = 20.0


@dataclass(frozen=True)
class Whole:
    """All weights and moments of a model, no element like another."""

    config: ModelConfig
    weights: Mapping[str, Tensor]
    moments: Mapping[tuple[str, str], Tensor]

    @classmethod
    def of(cls, config: ModelConfig, seed: int = 0) -> "Whole":
        generator = torch.Generator().manual_seed(seed)
        held = list(tensors(config))
        weights = {each.name: torch.randn(each.shape, generator=generator) for each in held}
        moments = {
            (each.name, moment): torch.randn(each.shape, generator=generator)
            for each in held
            if each.role.trained
            for moment in MOMENTS
        }
        return cls(config, weights, moments)

    def weight(self, part: TensorSlice) -> Tensor:
        return narrowed(self.weights[part.name], part)

    def moment(self, part: TensorSlice, moment: str) -> Tensor:
        return narrowed(self.moments[part.name, moment], part)

    def balance(self, share: Share) -> dict[int, BalanceState]:
        """Return a state, unlike others, of each layer with experts that a share holds."""
        held = (layer for layer in share.layer_numbers if self.config.has_experts(layer))
        return {layer: BalanceState(0.01 / (1 + layer), (0.25, 0.75), (0.5, 0.5)) for layer in held}

    def state(self) -> training.WholeState:
        """Return everything as one process has it."""
        return training.WholeState(self.weight, self.moment, self.balance(whole(self.config)))

    def states(self, share: Share, cuts: "Cuts", replica: int) -> Iterator[OwnedState]:
        """Yield what one replica owns of a share: a range of every tensor, perhaps an empty one."""
        for part in held_by(self.config, share):
            if part.role.trained:
                start, stop = cuts.of(part)[replica]
                flat = {moment: self.moment(part, moment).reshape(-1) for moment in MOMENTS}
                own = {moment: value[start:stop].clone() for moment, value in flat.items()}
                yield OwnedState(TensorRange(part, start, stop), own)


@dataclass(frozen=True)
class Cuts:
    """Where ZeRO cuts the tensors: anywhere, also within a row; alike for whoever asks."""

    replicas: int
    seed: int

    def of(self, part: TensorSlice) -> list[tuple[int, int]]:
        source = Random(f"{self.seed}/{part}")
        inner = sorted(source.randint(0, part.elements) for _ in range(self.replicas - 1))
        return list(pairwise([0, *inner, part.elements]))


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    """Draw a small model that a family can write."""
    config = draw(plans.configs())
    if config.moe is None:
        config = replace(config, family="mistral")
    try:
        write_config(config, "float32")
    except ConfigError:
        plain = {"attention_bias": False, "output_bias": False, "mlp_bias": False}
        config = replace(config, **plain, query_key_norm=None, sliding_window=None)
        write_config(config, "float32")
    return config


def narrowed(whole: Tensor, part: TensorSlice) -> Tensor:
    if part.dim is None:
        return whole
    return whole.narrow(part.dim, part.start, part.stop - part.start)


def about(config: ModelConfig, tokenizer: Path, plan: Plan, step: int = 3) -> training.About:
    context = training.SaveContext(config, runs.run_config(tokenizer), tokenizer, "data")
    return training.About(context, to_dict(plan), step)


def write(
    whole: Whole, plan: Plan, cuts: Cuts, to: Location, tokenizer: Path, step: int = 3
) -> Location:
    """Write a checkpoint as the ranks of a plan do, all at once."""
    make_directory(to)
    written = parts(whole, plan, cuts, to)
    training.complete(to, about(whole.config, tokenizer, plan, step), written)
    return to


def check(at: Location, whole: Whole, plan: Plan, cuts: Cuts) -> None:
    """Read every part and every range that the ranks of a plan hold, verified."""
    manifest = load_manifest(at)
    checkpoint, moments = Checkpoint.open(at, manifest), Moments.open(at, manifest)
    for seat in plan.seats.of_replica(0):
        for part in held_by(whole.config, plan.share(seat)):
            assert checkpoint.read(part).equal(whole.weight(part))
            for moment in MOMENTS if part.role.trained else ():
                own = whole.moment(part, moment)
                assert moments.read(part, moment).equal(own)
                for start, stop in cuts.of(part):
                    read = moments.read_range(TensorRange(part, start, stop), moment)
                    assert read.equal(own.reshape(-1)[start:stop])


def parts(whole: Whole, plan: Plan, cuts: Cuts, to: Location) -> list[WrittenFiles]:
    """Let every rank of every replica write its files."""
    several = runs.repeated(plan, cuts.replicas)

    def rank(saver: RankSaver, seat: Seat) -> WrittenFiles:
        share = plan.share(replace(seat, replica=0))
        held = {part.name: whole.weight(part) for part in held_by(whole.config, share)}
        states = whole.states(share, cuts, seat.replica)
        return save(saver, to, Given(held, states, whole.balance(share)))

    return saved(whole.config, several, rank)


@dataclass(frozen=True)
class Given:
    """What a rank gives to a checkpoint."""

    weights: Mapping[str, Tensor]
    states: Iterable[OwnedState]
    balance: Mapping[int, BalanceState]


def save(saver: RankSaver, to: Location, given: Given, step: int = 3) -> WrittenFiles:
    """Take a snapshot and write it, in this thread."""
    saver.take(step, given.weights, given.states, given.balance, SECONDS)
    return saver.write(to, step, SECONDS)


def saved(
    config: ModelConfig, plan: Plan, rank: Callable[[RankSaver, Seat], WrittenFiles]
) -> list[WrittenFiles]:
    """Let every rank of a plan save in a thread of its own; return what they wrote by rank."""
    stores: dict[tuple[int, int], dist.Store] = defaultdict(dist.HashStore)
    for seat in plan.seats:
        stores[seat.replica, seat.stage]

    def run(seat: Seat) -> WrittenFiles:
        files = group(stores[seat.replica, seat.stage], seat.member, plan.gang_size)
        return rank(RankSaver(config, plan, seat, files, Buffers(DirectTransfer())), seat)

    with ThreadPoolExecutor(len(plan.seats)) as pool:
        return list(pool.map(run, plan.seats))


def group(store: dist.Store, rank: int, size: int) -> dist.ProcessGroup | None:
    """Return a gloo group of threads of this process."""
    if size == 1:
        return None
    return dist.ProcessGroupGloo(store, rank, size, timedelta(seconds=SECONDS))
