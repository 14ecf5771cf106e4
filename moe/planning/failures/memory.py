"""What the devices of a simulated run hold in memory: their state, and copies of one step.

Device d is the rank on ``Seat(0, d, 0)``, so that a run is decided about as a real one is.
"""

from collections.abc import Mapping, Sequence
from functools import cache

from moe.planning.plan.seats import Seat
from moe.planning.policy.holders import holders
from moe.planning.policy.situation import Standing


@cache
def seat_of(device: int) -> Seat:
    """Return the seat of the rank on a device."""
    return Seat(0, device, 0)


class Memory:
    """The memory of ``members``, the devices that the run is planned on, as the run goes on.

    ``nodes`` names the node of each device; who holds whose copy follows from it. ``copies``: the
    devices hold copies at all.
    """

    def __init__(self, nodes: Sequence[str], copies: bool) -> None:
        self._nodes = nodes
        self._keeps = copies
        self._step = 0
        self._own: set[int] = set()
        self._held: set[int] = set()
        self.members: tuple[int, ...] = ()
        self.living: set[int] = set()
        self.seats: tuple[Seat, ...] = ()
        self.holders: Mapping[Seat, Seat] = {}
        self._holds: Mapping[int, int] = {}

    def started(self, members: tuple[int, ...]) -> None:
        """All members have their state. Where others had it before, nobody has a copy yet.

        A device that was healed has its state of the copied step, and no copy of another.
        """
        if members != self.members or not self.living:
            self._own, self._held = set(), set()
            self._place(members)
        elif self._own:
            self._own = set(members)
        self.living = set(members)

    def copied(self, step: int) -> None:
        """Every member has a copy of its own of a step, and holds that of another."""
        if self._keeps:
            self._step = step
            self._own = set(self.members)
            self._held = set(self._holds)

    def lose(self, devices: frozenset[int]) -> None:
        """Forget what was in the memory of these devices."""
        self.living -= devices
        self._own -= devices
        self._held -= {self._holds[device] for device in devices if device in self._holds}

    def clear(self) -> None:
        """Forget everything: all processes end."""
        self.living, self._own, self._held = set(), set(), set()

    def standings(self, step: int) -> Mapping[Seat, Standing]:
        """Return where the living members stand, after a step of the run."""
        own, nothing = frozenset({self._step}), frozenset[int]()
        return {
            seat_of(device): Standing(
                step, True, own if device in self._own else nothing, self._holds_of(device, own)
            )
            for device in self.members
            if device in self.living
        }

    def _place(self, members: tuple[int, ...]) -> None:
        if members == self.members:
            return
        self.members, self.seats = members, tuple(map(seat_of, members))
        placed = {device: self._nodes[device] for device in members}
        found = (holders(placed) if self._keeps else None) or {}
        self.holders = {seat_of(device): seat_of(holder) for device, holder in found.items()}
        self._holds = {holder: device for device, holder in found.items()}

    def _holds_of(self, device: int, own: frozenset[int]) -> Mapping[Seat, frozenset[int]]:
        held = self._holds.get(device)
        return {seat_of(held): own} if held in self._held and held is not None else {}
