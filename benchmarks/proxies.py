"""What Ray Serve's way in costs: its own proxy or HAProxy, before a replica or before a front.

The model is tiny, so that nearly all of the time is that of HTTP, Ray and text. Each server is a
process of its own with one replica; with a front it may have no other number. Loads: requests for
one token, 8 at a time; one stream; 8 streams. HAProxy has fixed ports and files, so one such server
at a time can run on a machine; it comes with Ray's own package.
There is no bar: the table is what decision 57 reads.
"""

import asyncio
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.results import finish, options, parse
from benchmarks.served_here import make_model
from benchmarks.server_process import Running, Start, started
from pipelines.loading.figures import Figures, figures
from pipelines.loading.load import Load
from pipelines.loading.prompt import Prompt
from pipelines.loading.running import run
from pipelines.loading.target import Target

WAYS = {"proxy": {}, "haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"}}
SHAPES = {"replica": [], "front": ["--max-replicas", "1"]}
TOGETHER = 8


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__.splitlines()[0], material=False)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=200)
    arguments = parse(parser, requests=8, tokens=8)
    rows = []
    with TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        make_model(model, seed=0)
        for (way, environment), (shape, words) in product(WAYS.items(), SHAPES.items()):
            serve = [sys.executable, "-m", "pipelines.cli", "serve", str(model), *words]

            def command(port: int, serve: list[str] = serve) -> list[str]:
                return [*serve, "--host", "127.0.0.1", "--port", str(port)]

            start = Start(way, shape, command, model.name, environment)
            with started(start) as server:
                rows.append(_row(start, server, arguments.requests, arguments.tokens))
    finish(arguments, "Ways into a server", rows, ())


def _row(start: Start, server: Running, requests: int, tokens: int) -> dict[str, Any]:
    target = Target(server.url, start.model, ignore_eos=True)
    _asked(target, TOGETHER, TOGETHER, 4)
    before = server.processor_seconds()
    short = _asked(target, requests, TOGETHER, 1)
    between = server.processor_seconds()
    one = _asked(target, 2, 1, tokens)
    streams = _asked(target, TOGETHER, TOGETHER, tokens)
    spent = server.processor_seconds() - between
    assert one.first_token is not None
    assert one.per_token is not None
    return {
        "what": start.name,
        "requests/s": requests / short.seconds,
        "ms of CPU a request": 1e3 * (between - before) / requests,
        "first token, ms": 1e3 * one.first_token.p50,
        "a token, ms": 1e3 * one.per_token.p50,
        "8 streams, tok/s": streams.output_tokens / streams.seconds,
        "ms of CPU a token": 1e3 * spent / (one.output_tokens + streams.output_tokens),
    }


def _asked(target: Target, requests: int, together: int, tokens: int) -> Figures:
    """Ask for so many tokens each; every request must be answered."""
    prompts = [Prompt(text=f"{number} and ", max_tokens=tokens) for number in range(requests)]
    found = figures(asyncio.run(run(target, Load(requests, together), prompts)), prompts)
    assert not found.faults, found.faults
    return found


if __name__ == "__main__":
    main()
