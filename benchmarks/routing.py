"""Which replica gets a prompt: the one that has computed its beginning, or one of two at random.

Conversations of some turns each are held in parallel, with three replicas; a turn repeats all that
was said before. What a replica finds in its cache is counted by the server (``cached_tokens``).
Bar: by prefix, nine tenths of what a single replica with room for all would find is found.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from openai import OpenAI

from benchmarks.results import finish, options, parse
from benchmarks.served_here import NAME, ServedHere, served_here

REPLICAS = 3
SAID = 100
"""Characters that a turn adds, beside its answer."""
ANSWER = 8
BAR = 0.9


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__.splitlines()[0], material=False)
    parser.add_argument("--conversations", type=int, default=24)
    parser.add_argument("--turns", type=int, default=6)
    arguments = parse(parser, conversations=4, turns=3)
    rows = []
    with TemporaryDirectory() as folder, served_here(Path(folder), REPLICAS) as server:
        for routing in ("load", "prefix"):
            server.deploy(0, replicas=REPLICAS, routing=routing)
            rows.append(_row(server, routing, arguments.conversations, arguments.turns))
    found, could = rows[-1]["found in caches"], rows[-1]["could be found"]
    missed = [] if found >= BAR * could else [f"{found:.2f} is found of {could:.2f}"]
    finish(arguments, f"Conversations over {REPLICAS} replicas", rows, missed)


def _row(server: ServedHere, routing: str, conversations: int, turns: int) -> dict[str, Any]:
    """Hold conversations in parallel; return what was found of their prompts."""
    with ThreadPoolExecutor(REPLICAS) as pool:
        said = [f"{routing} {number} " * SAID for number in range(conversations)]
        found = list(pool.map(lambda text: _talk(server, text, turns), said))
    prompts, cached = (sum(each) for each in zip(*found, strict=True))
    return {
        "what": f"by {routing}",
        "prompt tokens": prompts,
        "found in caches": cached / prompts,
        "could be found": (turns - 1) / (turns + 1),
    }


def _talk(server: ServedHere, text: str, turns: int) -> tuple[int, int]:
    """Hold one conversation; return its prompt tokens, and how many of them a cache had."""
    prompts = cached = 0
    with OpenAI(base_url=server.url, api_key="-", timeout=120.0) as client:
        for turn in range(1, turns + 1):
            reply = client.completions.create(
                model=NAME, prompt=text[: turn * SAID], max_tokens=ANSWER, temperature=0
            )
            usage = reply.usage
            assert usage is not None
            assert usage.prompt_tokens_details is not None
            prompts += usage.prompt_tokens
            cached += usage.prompt_tokens_details.cached_tokens or 0
    return prompts, cached


if __name__ == "__main__":
    main()
