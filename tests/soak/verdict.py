"""What a soak has shown: its tables, and every bar that was missed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from moe.checkpoint.manifest import checkpoints
from moe.planning.failures.recorded import Measured, predicted_goodput
from moe.planning.failures.recovery import Saves
from pipelines.training.recording import recorded_steps
from pipelines.training.timeline import MENDED
from tests.driven import tensors_of
from tests.soak.course import Course, total
from tests.soak.growth import growth, settled
from tests.soak.harms import Harms
from tests.soak.soak import CHECKPOINT_EVERY, RANKS, Hurt, faults_that_did_not_happen

GOODPUT_POINTS = 0.03
MANY = 10
"""With fewer harms there are too few samples to fit, and one long recovery is most of the time."""
STEP_ROUNDING = 1e-5
MEMORY_BYTES, FILES = 16 * 2**20, 8.0
"""What the memory and the open files of a process may surely gain in the time of a soak."""
FEW = 20
"""Samples of settled processes below which nothing is known of their growth."""
HANDLE_BYTES = 2**20
"""What a driver may keep of each process that was replaced: Ray's client of an actor that is gone.

Without losses the memory of a driver does not grow: 261 MiB after 40 s and after 97 s.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The bars that a soak missed; none where all is well."""

    missed: tuple[str, ...]
    tables: tuple[Table, ...]


def verdict(undisturbed: Hurt, hurt: Hurt, harms: Harms) -> Verdict:
    """Judge the hurt run beside the undisturbed one."""
    if hurt.code or undisturbed.code or not hurt.course.records:
        end = f"undisturbed {undisturbed.code}, hurt {hurt.code}"
        return Verdict((f"a run did not end well: {end}\n{hurt.said[-6000:]}",), ())
    summary, many = Table("what", "value", title="The run"), harms.count >= MANY
    missed = [*_curve(undisturbed, hurt), *_left(undisturbed, hurt), *_harmless(hurt, harms)]
    missed += [*_kept(hurt)]
    missed += [*_growths(hurt, many, summary), *_goodput(hurt, many, summary)]
    for name, run in (("undisturbed", undisturbed), ("hurt", hurt)):
        summary.add_row(f"{name}: seconds, of a step", _two(run.course.horizon, run.course.pace))
    return Verdict(tuple(missed), (_recoveries(hurt), summary))


def _curve(undisturbed: Hurt, hurt: Hurt) -> Iterator[str]:
    """Compare every loss, and all that the last checkpoints hold.

    To the bit while the plan is the same. Another plan adds in another order: from the first resize
    on, each step may add ``STEP_ROUNDING`` to the difference of the losses.
    """
    ours, theirs = (recorded_steps(run.folder) for run in (hurt, undisturbed))
    first = min((event["boundary"] for event in hurt.course.resized), default=len(ours))
    differs = [
        one["step"]
        for one, other in zip(ours, theirs, strict=False)
        if one["step"] != other["step"]
        or abs(one["loss"] - other["loss"]) > STEP_ROUNDING * max(one["step"] - first, 0)
    ]
    if differs or len(ours) != len(theirs):
        yield f"the curve differs at {differs[:5]}; {len(ours)} steps beside {len(theirs)}"
    if first == len(ours):
        yield from _last_checkpoints(undisturbed, hurt)


def _last_checkpoints(undisturbed: Hurt, hurt: Hurt) -> Iterator[str]:
    """Compare weights and moments to the bit."""
    last, same = (checkpoints(run.folder)[-1] for run in (hurt, undisturbed))
    one, other = tensors_of(Path(last)), tensors_of(Path(same))
    unlike = [name for name in other if name not in one or not one[name].equal(other[name])]
    if unlike or one.keys() != other.keys():
        yield f"the last checkpoints differ in {len(unlike)} tensors, first {unlike[:3]}"


def _left(undisturbed: Hurt, hurt: Hurt) -> Iterator[str]:
    for run in (undisturbed, hurt):
        yield from (f"{run.folder.name} leaves {each}" for each in run.left)


def _harmless(hurt: Hurt, harms: Harms) -> Iterator[str]:
    """Say what did not happen: such a soak shows less than it says."""
    for text in faults_that_did_not_happen(hurt, harms.faults):
        yield f"fault {text} did not happen"
    if len(hurt.course.blows) < len(harms.blows):
        yield f"{len(hurt.course.blows)} of {len(harms.blows)} blows fell"
    if any(blow.kind == "resize" for blow in harms.blows) and not hurt.course.resized:
        yield "no change of plan was carried out"


def _kept(hurt: Hurt) -> Iterator[str]:
    """Count the processes on all seats: each but the first took the place of one that was lost."""
    course = hurt.course
    changes = sum(
        one != other for pids in zip(*hurt.pids, strict=True) for one, other in pairwise(pids)
    )
    told = sum(
        RANKS if event["restored"] else len(event["replaced"]) for event in course.events(MENDED)
    )
    told += sum(event["started"] for event in course.resized)
    if changes > told:
        yield f"{changes} processes are new, and {told} were to be replaced: others did not stay"


def _growths(hurt: Hurt, many: bool, summary: Table) -> Iterator[str]:
    """Fit the memory and the open files of ranks and of the driver over time."""
    replaced = sum(len(event["replaced"]) for event in hurt.course.events(MENDED))
    for role, handles in (("rank", 0), ("driver", replaced)):
        own = [each for each in hurt.samples if each.role == role]
        since = settled((each.pid, each.seconds, float(each.memory)) for each in own)
        for what, most, unit, amounts in (
            (
                "memory",
                MEMORY_BYTES + handles * HANDLE_BYTES,
                2.0**20,
                [each.memory for each in own],
            ),
            ("open files", FILES, 1.0, [each.files for each in own]),
        ):
            pairs = zip(own, amounts, strict=True)
            points = ((each.pid, each.seconds, float(amount)) for each, amount in pairs)
            found = growth(points, since)
            gained = found.surely * hurt.course.horizon
            hour = 3600.0 / unit
            summary.add_row(
                f"{role}: {what} gained in an hour{' (MiB)' if unit > 1 else ''}",
                f"{found.slope * hour:.2f} ± {found.margin * hour:.2f} ({found.points} samples)",
            )
            if many and found.points < FEW:
                yield f"the {what} of a {role} cannot be judged from {found.points} samples"
            elif many and gained > most:
                yield f"the {what} of a {role} grow: surely {gained / unit:.1f} in this run"


def _goodput(hurt: Hurt, many: bool, summary: Table) -> Iterator[str]:
    course = hurt.course
    played = predicted_goodput([*course.happenings(RANKS)], course.horizon, _measured(hurt))
    predicted = played.effective_ratio
    for what, one, other in (
        ("goodput", course.goodput, predicted),
        ("  seconds without training", course.stood_still(RANKS), played.recovery_seconds),
        ("  seconds of steps done again", course.seconds_again, played.lost_seconds),
        ("  starts from the checkpoint", course.restores, played.restores),
    ):
        summary.add_row(f"{what}: measured, predicted", _two(one, other))
    if many and abs(predicted - course.goodput) > GOODPUT_POINTS:
        yield f"goodput is {course.goodput:.3f}, the simulator predicts {predicted:.3f}"


def _measured(hurt: Hurt) -> Measured:
    """Return what a run takes; what saves cost a step is in its pace."""
    course = hurt.course
    mended = course.events(MENDED)
    copies = [each["seconds"] for each in course.events("copies")]
    saved = [each["checkpoint_seconds"] for each in course.events("checkpoint")]
    return Measured(
        course.pace,
        _mean([total(each) for each in mended if each["replaced"]]),
        _mean([total(each) for each in mended if each["restored"]]),
        Saves(1, 0.0, _mean(copies)),
        Saves(CHECKPOINT_EVERY, 0.0, _mean(saved)),
        hurt.nodes,
    )


def _recoveries(hurt: Hurt) -> Table:
    """Return a line for each recovery, and for each blow that needed none."""
    table = Table("at", "what happened", "noticed", "recovery", "again", "how", title="Recoveries")
    course = hurt.course
    start = course.records[0]["time"]
    rows = [(event["time"] - total(event), _row(course, event)) for event in course.events(MENDED)]
    rows += [
        (at, (kind, "", f"{course.pause_after(at):.1f} to the next step", "", "all could go on"))
        for at, kind in course.quiet_blows()
    ]
    rows += [(event["time"] - total(event), _resized(event)) for event in course.resized]
    for moment, cells in sorted(rows):
        table.add_row(f"{moment - start:.0f}", *cells)
    return table


def _row(course: Course, event: dict[str, Any]) -> tuple[str, ...]:
    cause, began = course.cause_of(event), event["time"] - total(event)
    noticed = "" if cause is None else f"{max(began - cause[0], 0.0):.1f}"
    phases = "  ".join(f"{name} {seconds:.2f}" for name, seconds in event["seconds"].items())
    how = "restored" if event["restored"] else f"replaced {event['replaced']}"
    again = str(max(event["lost_step"] - event["boundary"], 0))
    what = "" if cause is None else cause[1]
    return what, noticed, f"{total(event):.1f}: {phases}", again, how


def _resized(event: dict[str, Any]) -> tuple[str, ...]:
    phases = "  ".join(f"{name} {seconds:.2f}" for name, seconds in event["seconds"].items())
    told = f"{event['kept']} kept, {event['started']} new, {event['ended']} ended"
    return f"resize to {event['shape']}", "", f"{total(event):.1f}: {phases}", "0", told


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _two(one: float, other: float) -> str:
    return f"{one:.3f}, {other:.3f}"
