"""A checkpoint is the same to the byte as those written before: the hashes of one are kept here.

Its ranks hold what actors hold: decoders, buckets, optimisers; 3 replicas of 2 stages of 2 members.
Change a hash only together with ``moe.checkpoint.manifest.FORMAT``.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from actors.state.saver import RankSaver
from actors.step.buckets import buckets_of
from actors.step.optimizer import RankOptimizer
from moe.checkpoint import training
from moe.checkpoint.manifest import MANIFEST
from moe.checkpoint.records import MOMENTS, WrittenFiles
from moe.config.balance_state import BalanceState
from moe.config.ranges import TensorRange
from moe.config.tensors import TensorSlice, tensors
from moe.nn.build import build
from moe.planning.plan.seats import Seat
from tests import runs, saves
from tests.routed import routed

CONFIG = routed(
    shared_size=11, shared_gate=True, balance_bias=True, score="sigmoid", dense_layers=(0,)
)
PLAN = runs.placing(
    runs.splitting(
        runs.repeated(runs.plan(CONFIG, (1, 2), (2, 1), (3, 1)), 3),
        (50, 47),
    ),
    {2: ((1,), (0, 2, 3))},
)
BALANCE = {layer: BalanceState(0.5 + layer, (0.25,), (0.75,)) for layer in CONFIG.moe_layers}
FILES = {
    "config.json": "0fee8d0b3699a30d",
    "model-rank-00000.safetensors": "3d797a83d59ca97f",
    "model-rank-00002.safetensors": "7364997286fadbea",
    "model-rank-00003.safetensors": "4199dc05a38bb94b",
    "model-rank-00004.safetensors": "6742f86b2f82e8cd",
    "model-rank-00006.safetensors": "24a0e939d84be0ef",
    "model-rank-00007.safetensors": "50bdfe59110f543e",
    "model-rank-00008.safetensors": "05f4e1db2aa898ff",
    "model-rank-00010.safetensors": "0431682b43dfc763",
    "model-rank-00011.safetensors": "789dead6640ac676",
    "model.safetensors.index.json": "942cebff9062f871",
    "optimizer/rank-00000.safetensors": "e3e005e304fc697e",
    "optimizer/rank-00001.safetensors": "003af3a573de6c54",
    "optimizer/rank-00002.safetensors": "7e13cbcc8929dd7b",
    "optimizer/rank-00003.safetensors": "2cc79ac97e9f9ceb",
    "optimizer/rank-00004.safetensors": "c473ce8d65c503fb",
    "optimizer/rank-00005.safetensors": "a03955bd029e9d85",
    "optimizer/rank-00006.safetensors": "1875bd4124440f62",
    "optimizer/rank-00007.safetensors": "635c17a679d342dd",
    "optimizer/rank-00008.safetensors": "55c4b9d9b2c45bc7",
    "optimizer/rank-00009.safetensors": "e98287f9e4a966d9",
    "optimizer/rank-00010.safetensors": "a8b0e2bc1e9c43cb",
    "optimizer/rank-00011.safetensors": "296e7483c47d7cf6",
}
TABLES = {
    "step": "4e07408562bedb8b",
    "balance": "3a49b8bb6bb7cff1",
    "tensors": "bc854e1314fe74ff",
    "pieces": "c14c665a38791b1d",
}


def numbers(tensor: TensorSlice, salt: int) -> torch.Tensor:
    """Return numbers that need no generator: exact in float32 on every machine."""
    at = torch.arange(tensor.elements, dtype=torch.int64)
    mixed = (at * 7919 + 104729 * salt + 31 * sum(tensor.name.encode())) % 65521
    return (mixed.float() / 65536 - 0.5).view(tensor.shape)


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


def test_a_checkpoint_of_before_is_written_again(tmp_path: Path) -> None:
    held = list(tensors(CONFIG))
    moments = {
        (each.name, moment): numbers(each, salt)
        for each in held
        for salt, moment in enumerate(MOMENTS, 1)
        if each.role.trained
    }
    whole = saves.Whole(CONFIG, {each.name: numbers(each, 0) for each in held}, moments)
    train = runs.run_config(Path("nowhere")).train

    def moment_of(own: TensorRange, moment: str) -> torch.Tensor:
        return whole.moment(own.part, moment).reshape(-1)[own.start : own.stop]

    def rank(saver: RankSaver, seat: Seat) -> WrittenFiles:
        share = PLAN.share(replace(seat, replica=0))
        decoder = build(CONFIG, whole.weight, share)
        optimizer = RankOptimizer(buckets_of(decoder, seat.replica, 3, 2), train)
        optimizer.restore(moment_of, 3)
        weights = dict(decoder.named_parameters())
        balance = {layer: BALANCE[layer] for layer in share.layer_numbers if layer in BALANCE}
        own = saves.Given(weights, optimizer.states(), balance)
        return saves.save(saver, tmp_path, own)

    written = saves.saved(CONFIG, PLAN, rank)
    training.complete(tmp_path, saves.about(CONFIG, Path("nowhere"), PLAN), written)
    found = {
        str(file.relative_to(tmp_path)): digest(file.read_bytes())
        for file in sorted(tmp_path.rglob("*"))
        if file.name.endswith((".safetensors", ".safetensors.index.json", "config.json"))
    }
    assert found == FILES
    manifest: dict[str, Any] = json.loads((tmp_path / MANIFEST).read_text())
    tables = {key: digest(json.dumps(manifest[key], sort_keys=True).encode()) for key in TABLES}
    assert tables == TABLES
