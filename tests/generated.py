"""What an engine over processes generates, and what transformers generates of the same model."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from pipelines.serving.batching.batcher import Batcher, Room
from pipelines.serving.batching.sequence import Wanted
from tests import tiny


def prompts() -> list[tuple[int, ...]]:
    return [tuple(tiny.tokens(97, 1, n)[0].tolist()) for n in (7, 33, 1, 20, 20)]


@cache
def _theirs(model: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(model)


def expected(model: Path, prompt: Sequence[int], count: int) -> list[int]:
    """Return what transformers say after a prompt."""
    out = _theirs(model).generate(
        torch.tensor([prompt]),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return [int(token) for token in out[0, len(prompt) :]]


def behind(model: Path, prompt: Sequence[int], token: int) -> float:
    """Return how far the logit of a token after a prompt is below the largest one."""
    with torch.no_grad():
        logits = _theirs(model)(torch.tensor([prompt])).logits[0, -1]
    return float(logits.max() - logits[token])


def generated(engine: Any, room: Room, wanted: Sequence[Wanted]) -> list[list[int]]:
    """Generate in batches, as many at once as the room allows."""
    batcher, flights = Batcher(room), []
    numbers = [batcher.add(wish) for wish in wanted]
    texts: dict[int, list[int]] = {number: [] for number in numbers}
    while batcher.waiting or batcher.running:
        while len(flights) < room.depth and (batch := batcher.next(24)) is not None:
            flights.append(engine.begin(batch))
        flight = flights.pop(0)
        for outcome in batcher.take(flight.batch, engine.finish(flight)):
            if outcome.token is not None:
                texts[outcome.number].append(outcome.token.token)
            if len(texts[outcome.number]) == wanted[outcome.number - 1].max_tokens:
                batcher.end(outcome.number)
    return [texts[number] for number in numbers]
