"""Ranks generate what one process generates, also where tokens are hashed to experts."""

from pathlib import Path
from typing import Any

import pytest

from actors.commands import InferInput
from moe.config.sampling import Sampling
from moe.nn.draw import Draw
from tests import exports, runs
from tests.local_decoder import LocalDecoder
from tests.ranks import Ranks
from tests.routed import routed

SHARED = {"shared_size": 11, "shared_gate": True, "dense_layers": (1,)}


@pytest.mark.parametrize("rows", [None, (40, 57)])
@pytest.mark.parametrize(
    "options",
    [
        {"hashed": True, "top_k": 1},
        SHARED | {"score": "sigmoid", "balance_bias": True, "groups": 2, "scale": 2.5},
    ],
)
def test_stages_of_gangs_choose_the_tokens_of_one_process(
    options: dict[str, Any], rows: tuple[int, int] | None, ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(**options)
    model = exports.export(config, tmp_path / "model")
    plan = runs.plan(config, (1, 2), (2, 1), (1, 3))
    team = ranks.started(plan if rows is None else runs.splitting(plan, rows), model)
    local, greedy = LocalDecoder(model), Sampling(temperature=0.0)
    tokens, position = (5, 17, 3, 96), 0
    for _ in range(6):
        expected = local.infer("a", tokens, Draw(greedy, 0))
        answers = team.all("infer", InferInput("a", tokens, position, greedy))
        (found,) = (answer for answer in answers if answer is not None)
        assert found.token == expected.token
        assert found.logprob == pytest.approx(expected.logprob, abs=1e-4)
        tokens, position = (found.token,), position + len(tokens)


def test_ranks_of_a_bf16_run_generate_too(ranks: Ranks, tmp_path: Path) -> None:
    """Hidden states between stages are float32; the last one begins with a bfloat16 matrix."""
    config = routed()
    assert config.tie_embeddings
    model = exports.export(config, tmp_path / "model")
    run = runs.run_config(model, train={"precision": "bf16"})
    team = ranks.started(runs.plan(config, (1, 2)), model, run, runs.LENGTH)
    asked = InferInput("a", (5, 17, 3, 96), 0, Sampling(logprobs=0))
    *_, found = team.all("infer", asked)
    expected = LocalDecoder(model).infer("a", asked.tokens, Draw(asked.sampling, 0))
    assert found.logprob == pytest.approx(expected.logprob, abs=0.05)
