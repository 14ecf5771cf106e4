"""A run under failures played one second at a time: what skipping ahead is compared with."""

from collections.abc import Mapping

from moe.planning.failures.recovery import LivingActors, Policy
from moe.planning.failures.traces import Event, Trace

ACCOUNTS = ("useful", "slower", "lost", "recovery", "saving", "waiting")


class Ticking:
    """The same rules one second at a time, for whole seconds and named devices."""

    def __init__(self, policy: Policy, steps: Mapping[int, int], devices: int) -> None:
        self.policy, self.steps, self.devices = policy, steps, devices
        self.saves = {"checkpoint": policy.checkpoints}
        if isinstance(policy, LivingActors):
            self.saves = {"copy": policy.copies, **self.saves}
        self.there = set(range(devices))
        self.members = tuple(range(devices))
        self.now = self.step = self.checkpoint = self.copied = self.failures = self.restores = 0
        self.growing = self.restoring = False
        self.stored: dict[int, set[int]] = {}  # whose state each device has, of the copied step
        self.ring: tuple[int, ...] = ()
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

    def tick(self) -> None:
        self.now += 1
        if not self.members:
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
            if self.ring == self.members:
                for device in self.ring:
                    self.stored[device].add(device)
            self.begin()
        while self.ready is None and self.members:
            due = [each for each in self.hidden if each[2] == 0]
            if due:
                self.hidden.remove(due[0])
                self.commit(*due[0][:2])
            elif self.todo[0][1] == 0:
                self.done(self.todo.pop(0)[0])
            elif self.growing:
                self.stop()
                self.recover(planned=True)
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
        else:
            self.copied, self.ring = step, self.members
            apart = getattr(self.policy, "copy_distance", 0) or max(1, len(self.ring) // 2)
            held = [self.ring[(i - apart) % len(self.ring)] for i in range(len(self.ring))]
            self.stored = {a: {a, b} for a, b in zip(self.ring, held, strict=True)}
        built = self.built is not None and self.now > self.built
        self.growing |= built and kind == next(iter(self.saves))

    def plan_growth(self) -> None:
        self.built: int | None = None
        grown = self.policy.elastic and len(self.there) > len(self.members)
        pace = self.steps.get(len(self.there), 0)
        if grown and 0 < pace < self.steps[len(self.members)]:
            self.built = self.now + int(getattr(self.policy, "rebuild_seconds", 0))

    def apply(self, event: Event) -> None:
        lost = set(event.lost_devices)
        hit = bool(lost & set(self.members))
        self.failures += hit
        self.there = (self.there - lost) | set(event.joined_devices)
        if hit and self.ready is None:
            self.stop()
        for device in lost & set(self.stored):
            self.stored[device] = set()
        if hit or not self.members:
            self.recover(planned=False)
        elif self.ready is None:
            self.plan_growth()

    def stop(self) -> None:
        self.spent["lost"] += self.begun
        self.begun = 0
        self.todo, self.hidden, self.built, self.growing = [], [], None, False

    def recover(self, planned: bool) -> None:
        left = set().union(*self.stored.values()) if self.stored else set()
        whole = bool(self.ring) and left == set(self.ring)
        if not whole:
            self.ring, self.stored = (), {}
        self.restoring = not whole
        to = min(self.step, self.copied if whole else self.checkpoint)
        self.spent["lost"] += sum(self.paces[to:])
        del self.paces[to:]
        self.step = to
        enough = self.policy.elastic or len(self.there) == self.devices
        able = enough and self.steps.get(len(self.there), 0)
        self.members = tuple(sorted(self.there)) if able else ()
        new = any(each not in self.stored.get(each, set()) for each in self.members)
        policy = self.policy
        if isinstance(policy, LivingActors) and whole:
            pause = policy.regroup_seconds + policy.transfer_seconds
            if not planned:
                pause += policy.detection_seconds + (policy.rebuild_seconds if new else 0)
        else:
            pause = policy.restart_seconds + (0 if planned else policy.detection_seconds)
        self.ready = self.now + int(pause) if self.members else None
