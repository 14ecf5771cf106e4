"""A rank of this process: what the plan says of its layers is what runs."""

from collections import Counter
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from actors.commands import BuildCommand
from actors.membership import Membership
from actors.rank import Rank
from moe.checkpoint.reader import Checkpoint
from moe.nn.block import Block
from tests import runs, tiny


def test_only_the_plan_s_layers_run_twice(tmp_path: Path) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    plan = runs.recomputing(runs.plan(config, (3,)), (0, 2))
    rank = Rank(0)
    rank.build(BuildCommand("test", model, plan, 0, runs.LENGTH, run))
    store = rank.open_store("127.0.0.1", 30.0)
    rank.join(Membership("test", 1, 0, 1, 1, 1, (0, 0), *store, 30.0))
    passes: Counter[nn.Module] = Counter()

    def count(module: nn.Module, *_: Any) -> None:
        if isinstance(module, Block):
            passes[module] += 1

    handle = register_module_forward_hook(count)
    try:
        rank.train_step(runs.batch(config, run, 0))
    finally:
        handle.remove()
        rank.leave()
    once = run.train.micro_batches
    assert list(passes.values()) == [2 * once, once, 2 * once]
