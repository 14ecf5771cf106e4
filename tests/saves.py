"""Checkpoints written by savers in threads: any plan, any number of replicas, no processes."""

from collections.abc import Iterator, Mapping, Sequence
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

from actors.state.saver import RankPlace, ShareSaver
from moe.checkpoint import training
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MOMENTS, OwnedState, WrittenFiles
from moe.config.balance_state import BalanceState
from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.config.tensors import TensorSlice, held_by, tensors
from moe.errors import ConfigError
from moe.planning.plan.file import to_dict
from moe.planning.plan.plan import Plan
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

    def states(self, share: Share, cuts: "Cuts", replica: int) -> Iterator[OwnedState]:
        """Yield what one replica owns of a share: a range of every tensor, perhaps an empty one."""
        for part in held_by(self.config, share):
            if part.role.trained:
                start, stop = cuts.of(part)[replica]
                flat = {moment: self.moment(part, moment).reshape(-1) for moment in MOMENTS}
                own = {moment: value[start:stop].clone() for moment, value in flat.items()}
                yield OwnedState(part.name, start, stop, own)


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
    balance = {
        layer: BalanceState(0.01 / (1 + layer), (0.25, 0.75), (0.5, 0.5))
        for layer in config.moe_layers
    }
    run = runs.run_config(tokenizer)
    return training.About(config, run, tokenizer, "data", to_dict(plan), step, balance)


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
                    read = moments.read_range(part, moment, start, stop)
                    assert read.equal(own.reshape(-1)[start:stop])


def parts(whole: Whole, plan: Plan, cuts: Cuts, to: Location) -> list[WrittenFiles]:
    """Let every rank of every replica write its files."""
    gangs = [
        [plan.share(stage * plan.gang_size + member) for member in range(plan.gang_size)]
        for stage in range(len(plan.stages))
    ]
    jobs = []
    for replica in range(cuts.replicas):
        for stage, gang in enumerate(gangs):
            store = dist.HashStore()
            first = replica * plan.ranks + stage * plan.gang_size
            for member in range(len(gang)):
                place = RankPlace(member, replica, cuts.replicas, first + member)
                jobs.append((whole, gang, place, store, cuts, to))
    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(lambda job: _rank(*job), jobs))


def _rank(
    whole: Whole,
    gang: Sequence[Share],
    place: RankPlace,
    store: dist.Store,
    cuts: Cuts,
    to: Location,
) -> WrittenFiles:
    saver = ShareSaver(whole.config, gang, place, group(store, place.member, len(gang)))
    held = {part.name: whole.weight(part) for part in held_by(whole.config, gang[place.member])}
    states = whole.states(gang[place.member], cuts, place.replica)
    return saver.save(to, held, states, SECONDS)


def group(store: dist.Store, rank: int, size: int) -> dist.ProcessGroup | None:
    """Return a gloo group of threads of this process."""
    if size == 1:
        return None
    return dist.ProcessGroupGloo(store, rank, size, timedelta(seconds=SECONDS))
