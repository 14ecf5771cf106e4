"""Ranks generate what one process does, also where tokens are hashed, or experts merged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe.config.sampling import Sampling
from tests import batches, exports, runs
from tests.local_decoder import LocalDecoder, continued
from tests.ranks import Ranks
from tests.routed import routed

SCORED = Sampling(logprobs=0)
SHARED = {"shared_size": 11, "shared_gate": True, "dense_layers": (1,)}


@pytest.mark.parametrize("rows", [None, (40, 57)])
@pytest.mark.parametrize(
    "options",
    [
        {"hashed": True, "top_k": 1},
        {"segment_tokens": 3, "top_k": 1, "expert_size": 40, "dense_layers": (1,)},
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
    team.all("answer_as", batches.HOW)
    tokens, position = (5, 17, 3, 96), 0
    prompt = len(tokens)
    for expected in continued(LocalDecoder(model), tokens, 6, SCORED):
        found = batches.drawn(team.all("infer", batches.fed(tokens, position, SCORED, prompt)))
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
    team.all("answer_as", batches.HOW)
    tokens = (5, 17, 3, 96)
    batch = replace(batches.fed(tokens, sampling=SCORED), step=0)
    found = batches.drawn(team.all("infer", batch))
    (expected,) = continued(LocalDecoder(model), tokens, 1, SCORED)
    assert found.logprob == pytest.approx(expected.logprob, abs=0.05)
