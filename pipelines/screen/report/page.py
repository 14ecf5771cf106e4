"""The page of one or more runs: what a person wants to look at, in one file that fetches nothing.

One run has every section. Several runs share the curves of the first, a line for each, and then
follow one after the other.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from moe import __version__
from moe.errors import ConfigError
from pipelines.reporting.planned import Planned, plan_of
from pipelines.reporting.recorded import Recorded
from pipelines.screen.page.chart import COLOURS
from pipelines.screen.page.document import write_document
from pipelines.screen.page.figures import value_text
from pipelines.screen.page.lanes import unit_of
from pipelines.screen.page.phrases import count, short
from pipelines.screen.page.svg import element
from pipelines.screen.page.table import Card, cards
from pipelines.screen.report.events import events
from pipelines.screen.report.experts import experts
from pipelines.screen.report.frame import frame
from pipelines.screen.report.lineage import lineage_of
from pipelines.screen.report.plan import plan, shape_of
from pipelines.screen.report.training import training


def write_report(path: Path, runs: Sequence[Recorded], refresh_seconds: int | None = None) -> None:
    """Write the page; with ``refresh_seconds`` a browser loads it again after so long."""
    write_document(path, draw_report(runs, refresh_seconds), ConfigError)


def draw_report(runs: Sequence[Recorded], refresh_seconds: int | None = None) -> str:
    """Return the page as HTML."""
    if len(runs) > COLOURS:
        raise ConfigError(
            f"a report tells at most {COLOURS} runs apart, {len(runs)} are given; give fewer"
        )
    found = [plan_of(run) for run in runs]
    scripts = ["hints.js"]
    parts = [*_head(runs, found, refresh_seconds)]
    if len(runs) > 1:
        parts += training(runs)
        for run, planned in zip(runs, found, strict=True):
            parts.append(element("h2", escape(f"Run {run.name}"), class_="run"))
            parts += [*_cards(run, planned), *_own(run, planned, several=True)]
    else:
        parts += [*_cards(runs[0], found[0]), *training(runs), *_own(runs[0], found[0])]
        if 'id="timeline"' in "".join(parts):
            scripts.append("zoom.js")
    names = [_name(run, planned) for run, planned in zip(runs, found, strict=True)]
    title = f"Run {names[0]}" if len(runs) == 1 else f"Runs {', '.join(run.name for run in runs)}"
    return frame(title, parts, scripts, refresh_seconds)


def _name(run: Recorded, found: Planned | str) -> str:
    """Return the name that the run file gives, or that of the directory."""
    return found.run.name if isinstance(found, Planned) else run.name


def _own(run: Recorded, found: Planned | str, several: bool = False) -> Iterator[str]:
    """Yield the sections that each run has of its own; of several, without pictures of the plan,
    which would be the same page again.
    """
    yield from experts(run)
    yield from events(run)
    if not several:
        yield from plan(run, found)
    yield from lineage_of(found)


def _head(
    runs: Sequence[Recorded], found: Sequence[Planned | str], refresh: int | None
) -> Iterator[str]:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    told = [f"Drawn {now} by raymoe {__version__}"]
    if len(runs) == 1 and isinstance(found[0], Planned):
        told.insert(0, shape_of(found[0]))
    if refresh is not None:
        told.append(f"the run goes on, and the page is loaded again every {refresh} s")
    yield element("p", escape("; ".join(told) + "."))


def _cards(run: Recorded, found: Planned | str) -> Iterator[str]:
    yield cards(_figures(run, found))


def _figures(run: Recorded, found: Planned | str) -> Iterator[Card]:
    planned = found.run.train.steps if isinstance(found, Planned) else None
    of = "" if planned is None else f"of {planned:,}"
    yield "steps done", f"{run.last_step:,}", of or f"{run.steps:,} in the journal", ""
    loss, curve = run.last("loss"), run.curves.get("loss")
    if loss is not None and curve is not None and curve.span is not None:
        yield "loss", f"{loss:.4f}", f"least {curve.span[0]:.4f}, nats per token", ""
    speed = run.last("tokens_per_second")
    if speed is not None:
        yield "tokens per second", short(speed), f"{short(run.tokens)} tokens so far", ""
    yield _work(run)
    goodput = run.last("goodput")
    if goodput is not None:
        losses = count(run.happened.get("lost", 0), "loss", "es")
        yield "goodput", f"{goodput:.1%}", f"time in steps that were kept; {losses}", ""
    if run.times is not None:
        size, unit = unit_of(run.times[1] - run.times[0])
        lasted = (run.times[1] - run.times[0]) / size
        yield "duration", f"{lasted:.3g} {unit}", "first to last line of the journal", ""


def _work(run: Recorded) -> Card:
    mfu, work = run.last("mfu"), run.last("flops_per_second")
    if mfu is not None:
        return "MFU", f"{mfu:.1%}", "of the data-sheet peak, last step", ""
    if work is not None:
        return "useful work", f"{value_text(work / 1e9)} GFLOP/s", "no data sheet, so no MFU", ""
    return "useful work", "not recorded", "by the raymoe that wrote the journal", ""
