"""Where a step's time goes: torch's profiler over one rank that holds the whole model.

``--markdown FILE`` writes the table as it stands in docs/reference/step-profile.md. It has no bar.
"""

import time
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from actors.state.sources import ModelSource
from benchmarks.results import finish, options, parse
from benchmarks.run import bench_run
from pipelines.corpus.shards import TokenShards
from pipelines.study.solo import Solo
from pipelines.training.batches import batches

WARM = 2
ROWS = 16


def main() -> None:
    """Profile and print."""
    parser = options(__doc__ or "")
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", type=Path)
    arguments = parse(parser, micro_batches=1, threads=1)
    run = bench_run(
        arguments.model, arguments.data, steps=WARM + 1, global_batch=arguments.micro_batches
    )
    shards = TokenShards.open(run.data.path, "train")
    source = ModelSource(run.model.path)
    solo = Solo(run, source, shards.sequence_length, arguments.threads)
    for batch in batches(run, shards, 0):
        if batch.step < WARM:
            solo.step(batch)
            continue
        started = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as measured:
            solo.step(batch)
        seconds = time.perf_counter() - started
    solo.close()
    rows = _rows(measured, seconds)
    if arguments.markdown:
        arguments.markdown.write_text(_markdown(rows, seconds, run.train.global_batch))
    finish(arguments, f"A step of {seconds:.2f} s under the profiler, by operator", rows, [])


def _rows(measured: Any, seconds: float) -> list[dict[str, Any]]:
    """Return the operators that took most time of their own, and the rest together."""
    events = sorted(measured.key_averages(), key=lambda e: e.self_cpu_time_total, reverse=True)
    rows = [
        {
            "what": event.key,
            "calls": event.count,
            "own s": event.self_cpu_time_total / 1e6,
            "of step %": 100 * event.self_cpu_time_total / 1e6 / seconds,
        }
        for event in events[:ROWS]
    ]
    rest = sum(event.self_cpu_time_total for event in events[ROWS:]) / 1e6
    calls = sum(event.count for event in events[ROWS:])
    rows.append(
        {"what": "all others", "calls": calls, "own s": rest, "of step %": 100 * rest / seconds}
    )
    return rows


def _markdown(rows: list[dict[str, Any]], seconds: float, sequences: int) -> str:
    lines = [f"One step of {sequences} sequences, {seconds:.2f} s under the profiler.", ""]
    lines += ["| operator | calls | own seconds | of the step |", "|---|---|---|---|"]
    lines += [
        f"| `{row['what']}` | {row['calls']} | {row['own s']:.3f} | {row['of step %']:.1f} % |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
