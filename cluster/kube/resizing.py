"""A run and its groups of pods, resized together: what to do next. A pure function.

Neither starves the other: first groups that are too small grow and their pods come, then the run
changes its plan, and then go the pods that have no ranks any more. Each step follows from what is
seen, so a resize that was cut off goes on where it stands, and one that is done does nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cluster.kube.worker_groups import GroupSeen, Size

What = Literal["refuse", "take", "enlarge", "wait", "ask", "look", "reduce", "settle", "done"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wished of a run, in ``words``, and how many pods each group has then.

    ``met``: the run has the plan that is wished for.
    """

    words: str
    pods: Mapping[str, int]
    met: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What is there: the groups, the wish of whoever resizes now, and whether Kueue has admitted
    the pods that there are, and no others. ``trouble`` says why pods do not run; ``others`` are
    the runs and servers that have ranks in these pods too.
    """

    groups: tuple[GroupSeen, ...]
    taken: str | None = None
    admitted: bool = False
    trouble: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next; ``sizes`` are those that groups get by it.

    ``take`` claims the cluster for this resize, ``ask`` has the run change its plan, ``look`` asks
    it where its ranks are, ``settle`` removes the names of pods that have gone.
    """

    what: What
    words: str = ""
    sizes: Mapping[str, Size] = field(default_factory=dict)


def next_step(wanted: Wanted, seen: Seen) -> Step:
    """Return the next step of a resize."""
    if (refused := _refused(wanted, seen)) is not None:
        return Step("refuse", refused)
    step = _after_the_run(wanted, seen) if wanted.met else _before_the_run(wanted, seen)
    if seen.taken is None and step.what != "done":
        return Step("take", wanted.words)
    return step


def left(wanted: Wanted, seen: Seen) -> str:
    """Return in words what is there of a resize that was cut off, and how to go on or back."""
    groups = "; ".join(
        f"{group.name} asks for {group.size.most} pods, {len(group.ready)} run, "
        f"{len(group.busy)} have ranks"
        for group in seen.groups
    )
    met = "has the plan that was wished for" if wanted.met else "goes on under its old plan"
    return (
        f"the run {met}; {groups}. The same command goes on from here; `raymoe kube scale` with "
        "the number of replicas that the run has gives other pods back"
    )


def _refused(wanted: Wanted, seen: Seen) -> str | None:
    if unknown := sorted(wanted.pods.keys() - {group.name for group in seen.groups}):
        return f"the cluster has no group {', '.join(unknown)}"
    if seen.others:
        return (
            f"{', '.join(seen.others)} have ranks in these pods too, and a group is of all of "
            "them; end them, or resize the run alone with `raymoe scale`"
        )
    if seen.taken not in (None, wanted.words):
        return (
            f"another resize is under way ({seen.taken}); wait until it is done, or give the same "
            "wish to go on with it"
        )
    if seen.admitted and (more := _too_small(wanted, seen)):
        return (
            f"Kueue has admitted the pods that the job began with, and {', '.join(more)} would be "
            "more; delete the run and apply it with the larger plan: its queue admits that, and it "
            "continues from its last checkpoint"
        )
    return None


def _before_the_run(wanted: Wanted, seen: Seen) -> Step:
    """Make groups large enough, and wait until the pods run."""
    if small := _too_small(wanted, seen):
        sizes = {
            group.name: group.sized(
                max(group.size.most, wanted.pods[group.name]), wanted.pods[group.name]
            )
            for group in seen.groups
            if group.name in small
        }
        words = ", ".join(f"{name} to {size.most} pods" for name, size in sizes.items())
        return Step("enlarge", words, sizes)
    coming = [
        f"{len(group.ready)} of {wanted.pods[group.name]} pods of {group.name}"
        for group in seen.groups
        if len(group.ready) < wanted.pods.get(group.name, 0)
    ]
    if coming:
        because = f": {seen.trouble}" if seen.trouble else ""
        return Step("wait", f"{', '.join(coming)} run{because}")
    return Step("ask", wanted.words)


def _after_the_run(wanted: Wanted, seen: Seen) -> Step:
    """Take back the pods that no rank needs any more, and no other."""
    sizes: dict[str, Size] = {}
    for group in seen.groups:
        most = wanted.pods.get(group.name, 0)
        least = 0 if group.floating else most
        if len(group.busy) > most:
            return Step("look", f"{len(group.busy)} pods of {group.name} have ranks, not {most}")
        if (group.size.most, group.size.least) != (most, least):
            surplus = max(0, len(group.pods) - most)
            leaving = () if group.floating else group.idle[:surplus]
            sizes[group.name] = group.sized(most, least, leaving)
    if sizes:
        words = ", ".join(f"{name} to {size.most} pods" for name, size in sizes.items())
        return Step("reduce", words, sizes)
    going = [group for group in seen.groups if len(group.pods) > wanted.pods.get(group.name, 0)]
    if going:
        return Step("wait", f"pods without ranks end, of {', '.join(each.name for each in going)}")
    noted = [group for group in seen.groups if group.size.leaving and not group.floating]
    if noted:
        return Step("settle", "", {each.name: each.sized(each.size.most) for each in noted})
    return Step("done")


def _too_small(wanted: Wanted, seen: Seen) -> list[str]:
    """Return the groups that may not have as many pods as are wished.

    An autoscaler makes pods for a run that asks for them, and a living run asks for none: the group
    is told to have at least so many, until they have ranks.
    """
    return [
        group.name
        for group in seen.groups
        if min(group.size.most, group.size.least) < wanted.pods.get(group.name, 0)
        and not (wanted.met or len(group.busy) >= wanted.pods.get(group.name, 0))
    ]
