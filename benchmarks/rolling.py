"""A server that changes while it is asked: its model, and the number of its replicas.

Clients ask in a closed loop, greedy streams of prompts that repeat. Meanwhile a replica is added,
the model is changed for another under the same name, a replica is taken away, and the model is
changed back with a replica more than there should be. These four changes are made again and again
until all requests are answered.
Bars: no request fails; every text is one of the two that the models give; every change is made.
The model is tiny: what is tried here is who loses a request, and not how fast answers come.
"""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle, pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.results import finish, options, parse
from benchmarks.served_here import NAME, ServedHere, served_here
from pipelines.loading.answer import Answer
from pipelines.loading.load import Load
from pipelines.loading.prompt import Prompt
from pipelines.loading.running import run
from pipelines.loading.target import Target

CORES = 4
TOKENS = 24
PROMPTS = [Prompt(text=f"{number} and {number + 1} and ") for number in range(16)]


class Change(NamedTuple):
    """What is changed, and what the server is after that."""

    what: str
    seed: int
    arguments: Mapping[str, Any]


FIRST = Change("begin", 0, {"replicas": 1, "max_replicas": 1})
CHANGES = (
    Change("a replica more", 0, {"replicas": 2}),
    Change("another model", 1, {"replicas": 2}),
    Change("a replica fewer", 1, {"replicas": 1, "max_replicas": 1}),
    Change("the first model again, surge 1", 0, {"replicas": 1, "surge": 1}),
)


class Made(NamedTuple):
    """A change that was made, between two moments of the load."""

    what: str
    began: float
    ended: float


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__.splitlines()[0], material=False)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=4)
    arguments = parse(parser, requests=40, concurrency=2)
    with TemporaryDirectory() as folder, served_here(Path(folder), CORES) as server:
        texts = [_texts(server, seed) for seed in (1, 0)]
        answers, made = _load(server, arguments.requests, arguments.concurrency)
    rows = [_row(change, answers, made) for change in CHANGES]
    finish(arguments, "Changes under load, by kind", rows, _missed(answers, made, texts))


def _texts(server: ServedHere, seed: int) -> list[str]:
    """Return what the model of a seed answers to each prompt."""
    server.deploy(seed, **FIRST.arguments)
    answers = asyncio.run(run(_target(server), Load(len(PROMPTS), concurrency=1), PROMPTS))
    return [answer.text for answer in answers]


def _target(server: ServedHere) -> Target:
    return Target(server.url, NAME, max_tokens=TOKENS, seconds=120.0)


def _load(server: ServedHere, requests: int, concurrency: int) -> tuple[list[Answer], list[Made]]:
    """Ask until all requests are answered and every change was made; change meanwhile."""
    enough, done, made = threading.Event(), threading.Event(), list[Made]()
    began = time.perf_counter()

    def change() -> None:
        for number, each in enumerate(cycle(CHANGES)):
            if enough.is_set() and number >= len(CHANGES):
                break
            start = time.perf_counter() - began
            server.deploy(each.seed, **each.arguments)
            made.append(Made(each.what, start, time.perf_counter() - began))
        done.set()

    answers = list[Answer]()
    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        while not done.is_set() and not changing.done():
            answers += _asked(server, concurrency, time.perf_counter() - began)
            if len(answers) >= requests:
                enough.set()
        changing.result()
    return answers, made


def _asked(server: ServedHere, concurrency: int, offset: float) -> list[Answer]:
    """Ask every prompt once; the moments of the answers are since the beginning of all."""
    load = Load(len(PROMPTS), concurrency=concurrency)
    answers = asyncio.run(run(_target(server), load, PROMPTS))
    return [_later(answer, offset) for answer in answers]


def _later(answer: Answer, offset: float) -> Answer:
    tokens = tuple(at + offset for at in answer.tokens_at)
    return replace(
        answer,
        due=answer.due + offset,
        sent=answer.sent + offset,
        ended=answer.ended + offset,
        tokens_at=tokens,
    )


def _row(change: Change, answers: Sequence[Answer], made: Sequence[Made]) -> dict[str, Any]:
    """Return what was seen while changes of a kind were made."""
    mine = [each for each in made if each.what == change.what]
    tokens = sorted(at for answer in answers for at in answer.tokens_at)
    silence, during = 0.0, 0
    for each in mine:
        within = [each.began, *(at for at in tokens if each.began < at < each.ended), each.ended]
        silence = max(silence, *(after - before for before, after in pairwise(within)))
        during += sum(each.began < answer.ended < each.ended for answer in answers)
    return {
        "what": change.what,
        "times": len(mine),
        "seconds": median(each.ended - each.began for each in mine),
        "answered meanwhile": during,
        "longest silence, s": silence,
    }


def _missed(
    answers: Sequence[Answer], made: Sequence[Made], texts: Sequence[Sequence[str]]
) -> list[str]:
    failed = [answer.failure for answer in answers if answer.failure is not None]
    missed = []
    if failed:
        missed.append(f"{len(failed)} of {len(answers)} requests failed; the first: {failed[0]}")
    strange = [
        answer.text
        for number, answer in enumerate(answers)
        if answer.failure is None
        and answer.text not in {said[number % len(PROMPTS)] for said in texts}
    ]
    if strange:
        missed.append(f"{len(strange)} texts are of no model; the first: {strange[0]!r}")
    lacking = {change.what for change in CHANGES} - {each.what for each in made}
    return missed + [f"{what} was never made" for what in sorted(lacking)]


if __name__ == "__main__":
    main()
