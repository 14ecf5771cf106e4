"""A run under failures played one second at a time: what skipping ahead is compared with.

Its rules are written out here and not asked of ``moe.planning.policy``.
"""

from collections.abc import Mapping

from moe.planning.failures.recovery import LivingActors, Policy
from moe.planning.failures.traces import Event, Trace

ACCOUNTS = ("useful", "slower", "lost", "recovery", "saving", "waiting")


class Ticking:
    """The same rules one second at a time, for whole seconds and named devices."""

    def __init__(self, policy: Policy, steps: Mapping[int, int], devices: int) -> None:
        self.policy, self.steps, self.devices = policy, steps, devices
        self.living = isinstance(policy, LivingActors)
        self.saves = {"checkpoint": policy.checkpoints}
        if isinstance(policy, LivingActors):
            self.saves = {"copy": policy.copies, **self.saves}
        self.there = set(range(devices))
        self.members = self.next = tuple(range(devices))
        self.have = set(self.members)  # devices with their live state
        self.own: set[int] = set()  # devices with a copy of their own of the copied step
        self.held: set[int] = set()  # devices whose copy is with a living holder
        self.now = self.step = self.checkpoint = self.copied = self.failures = self.restores = 0
        self.growing = self.restoring = self.waiting = False
        self.paces: list[int] = []
        self.spent = dict.fromkeys(ACCOUNTS, 0)
        self.begin()

    def play(self, trace: Trace) -> "Ticking":
        events = list(trace.events)
        while True:
            self.settle()
            if events and events[0].seconds == self.now:
                self.apply(events.pop(0))
            elif self.now == trace.horizon_seconds:
                break
            else:
                self.tick()
        self.spent["lost"] += self.begun
        full = self.steps[self.devices]
        self.spent["useful"] = self.step * full
        self.spent["slower"] = sum(self.paces) - self.step * full
        return self

    @property
    def trains(self) -> bool:
        return not self.waiting and self.ready is None

    def tick(self) -> None:
        self.now += 1
        if self.waiting:
            self.spent["waiting"] += 1
        elif self.ready is not None:
            self.spent["recovery"] += 1
        else:
            kind, left = self.todo[0]
            self.todo[0] = (kind, left - 1)
            self.begun += kind == "step"
            self.spent["saving"] += kind != "step"
            self.hidden = [(kind, step, left - 1) for kind, step, left in self.hidden]

    def settle(self) -> None:
        if self.ready is not None and self.ready <= self.now:
            self.restores += self.restoring
            if self.next != self.members or not self.have:
                self.own, self.held = set(), set()
            elif self.own:
                self.own = set(self.members)
            self.members = self.next
            self.have = set(self.members)
            self.begin()
        while self.trains:
            due = [each for each in self.hidden if each[2] == 0]
            if due:
                self.hidden.remove(due[0])
                self.commit(*due[0][:2])
            elif self.todo[0][1] == 0:
                self.done(self.todo.pop(0)[0])
            elif self.growing:
                self.stop()
                self.grow()
                self.settle()
            else:
                break

    def begin(self) -> None:
        self.ready: int | None = None
        self.begun = 0
        self.todo = [("step", self.steps[len(self.members)])]
        self.hidden: list[tuple[str, int, float]] = []
        if "copy" in self.saves:
            self.hidden = [("again", self.step, self.saves["copy"].hidden_seconds)]
        self.plan_growth()

    def done(self, kind: str) -> None:
        if kind != "step":
            self.hidden.append((kind, self.step, self.saves[kind].hidden_seconds))
            return
        self.step += 1
        self.begun = 0
        self.growing |= self.living and self.built is not None and self.now > self.built
        self.paces.append(self.steps[len(self.members)])
        self.todo = [
            (name, int(each.stall_seconds))
            for name, each in self.saves.items()
            if self.step % each.every_steps == 0
        ]
        self.todo.append(("step", self.steps[len(self.members)]))

    def commit(self, kind: str, step: int) -> None:
        if kind == "checkpoint":
            self.checkpoint = step
            built = self.built is not None and self.now > self.built
            self.growing |= built and not self.living
        else:
            self.copied, self.own = step, set(self.members)
            self.held = set(self.members) if len(self.members) > 1 else set()

    def plan_growth(self) -> None:
        self.built: int | None = None
        grown = self.policy.elastic and len(self.there) > len(self.members)
        pace = self.steps.get(len(self.there), 0)
        if grown and 0 < pace < self.steps[len(self.members)]:
            self.built = self.now + int(getattr(self.policy, "rebuild_seconds", 0))

    def apply(self, event: Event) -> None:
        lost = set(event.lost_devices)
        hit = not self.waiting and bool(lost & {*self.members, *self.next})
        self.failures += hit
        self.there = (self.there - lost) | set(event.joined_devices)
        if hit and self.trains:
            self.stop()
        count = len(self.members)
        for device in lost & set(self.members):
            place = self.members.index(device)
            self.held.discard(self.members[(place - count // 2) % count])
        self.have -= lost
        self.own -= lost
        if hit and not self.living:
            self.forget()
        if hit or self.waiting:
            self.recover()
        elif self.trains:
            self.plan_growth()

    def stop(self) -> None:
        self.spent["lost"] += self.begun
        self.begun = 0
        self.todo, self.hidden, self.built, self.growing = [], [], None, False

    def forget(self) -> None:
        self.have, self.own, self.held = set(), set(), set()

    def grow(self) -> None:
        """Take in what has joined: living actors lose no step, others restart."""
        self.next = tuple(sorted(self.there))
        if isinstance(self.policy, LivingActors):
            self.restoring = False
            pause = self.policy.regroup_seconds + self.policy.transfer_seconds
        else:
            self.forget()
            self.go_back(self.checkpoint)
            self.restoring, pause = True, self.policy.restart_seconds
        self.ready = self.now + int(pause)

    def recover(self) -> None:
        lost = set(self.members) - self.have
        there = tuple(sorted(self.there))
        room = set(self.members) <= self.there
        smaller = self.policy.elastic and self.steps.get(len(there), 0)
        self.next = self.members if room else there
        self.waiting = not room and not smaller
        copied = bool(self.have) and lost <= self.held
        if copied and lost:
            self.go_back(self.copied)
        elif not copied:
            self.forget()
            self.go_back(self.checkpoint)
        self.restoring = not copied
        self.ready = None if self.waiting else self.now + int(self.pause(bool(lost), copied))

    def pause(self, lost: bool, copied: bool) -> float:
        policy = self.policy
        if not isinstance(policy, LivingActors) or not copied:
            return policy.detection_seconds + policy.restart_seconds
        pause = policy.detection_seconds + policy.regroup_seconds
        if lost:
            pause += policy.transfer_seconds
            pause += 0 if set(self.next) <= self.have else policy.rebuild_seconds
        return pause

    def go_back(self, to: int) -> None:
        self.spent["lost"] += sum(self.paces[to:])
        del self.paces[to:]
        self.step = min(self.step, to)
