"""``transformers serve`` beside us, in float32, out of our own environment.

It needs accelerate, which nothing of ours does: ``make peers`` puts that into a folder of its own.
"""

import os
import sys
from pathlib import Path

from benchmarks.server_process import Start

ENGINE = "transformers"
ENVIRONMENT = ".venv-peers-transformers"
PAGE_TOKENS, PAGES, BATCH_TOKENS = 32, 512, 512
"""Left to itself it takes pages for most of the memory of the machine."""


def starts(folder: Path, model: Path) -> list[Start]:
    """Return how it is started; none where accelerate is not installed."""
    home = folder.absolute() / ENVIRONMENT
    if not (home / "accelerate").is_dir():
        return []
    words = ["serve", str(model), "--device", "cpu", "--dtype", "float32"]
    words += ["--continuous-batching", "--attn-implementation", "sdpa"]
    words += ["--cb-block-size", str(PAGE_TOKENS), "--cb-num-blocks", str(PAGES)]
    words += ["--cb-max-batch-tokens", str(BATCH_TOKENS)]
    program = Path(sys.executable).with_name("transformers")
    threads = str(os.cpu_count())
    return [
        Start(
            engine=ENGINE,
            weights="fp32",
            command=lambda port: [str(program), *words, "--port", str(port)],
            model=str(model),
            environment={
                "PYTHONPATH": str(home),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": threads,
            },
        )
    ]
