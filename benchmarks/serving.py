"""Greedy decoding of one request: transformers in one process against our actors, interleaved.

Bar: the same tokens. Speed has no bar yet; batching comes later.
"""

import os
import time
from statistics import median
from typing import Any

import torch
import transformers

from actors.deadlines import Deadlines
from actors.engine import over_ray
from actors.engine.serving import ServingEngine
from benchmarks.results import finish, options, parse
from cluster.probe import probe
from cluster.session import session
from moe.checkpoint.reader import Checkpoint
from moe.config.sampling import Sampling
from moe.nn.draw import Draw
from moe.planning.counts.workload import Workload
from moe.planning.search.make import make_plan
from pipelines.corpus.shards import TokenShards


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=64, help="tokens before them")
    arguments = parse(parser, tokens=2, repeats=1, prompt=16)
    cores = os.cpu_count() or 2
    torch.set_num_threads(cores)
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, trust_remote_code=True, dtype=torch.float32
    )
    prompt = TokenShards.open(arguments.data, "held_out").batch([0]).tokens[0, : arguments.prompt]
    config = Checkpoint.open(arguments.model).config
    wanted = Workload(arguments.prompt + arguments.tokens, 1, 1, training=False)
    seconds: dict[str, list[float]] = {"transformers": [], "one rank": [], "two stages": []}
    answers: dict[str, list[int]] = {}
    with session("local", cpus=2 * max(cores, 2)):
        engines = {
            name: over_ray.serve(
                f"bench-{stages}",
                arguments.model.absolute(),
                make_plan(config, probe(threads), stages, 1, wanted),
                Deadlines(),
            )
            for name, stages, threads in (
                ("one rank", 1, cores),
                ("two stages", 2, max(cores // 2, 1)),
            )
        }
        for repeat in range(arguments.repeats + 1):
            started = time.perf_counter()
            answers["transformers"] = _theirs(theirs, prompt.tolist(), arguments.tokens)
            seconds["transformers"].append(time.perf_counter() - started)
            for name, engine in engines.items():
                started = time.perf_counter()
                answers[name] = _ours(engine, prompt.tolist(), arguments.tokens, f"r{repeat}")
                seconds[name].append(time.perf_counter() - started)
        for engine in engines.values():
            engine.shutdown()
    rows = [
        {"what": name, "tok/s": arguments.tokens / median(taken[1:])}
        for name, taken in seconds.items()
    ]
    missed = [f"{n}: other tokens" for n, a in answers.items() if a != answers["transformers"]]
    finish(arguments, f"Greedy decoding after {arguments.prompt} tokens, one request", rows, missed)


def _theirs(model: Any, prompt: list[int], count: int) -> list[int]:
    tokens = torch.tensor([prompt])
    out = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return [int(token) for token in out[0, len(prompt) :]]


def _ours(engine: ServingEngine, prompt: list[int], count: int, sequence: str) -> list[int]:
    fed, made = prompt, []
    for _ in range(count):
        fed = [engine.infer(sequence, fed, Draw(Sampling(), 0)).token]
        made += fed
    engine.release(sequence)
    return made


if __name__ == "__main__":
    main()
