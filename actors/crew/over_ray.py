"""A crew of Ray actors: named, found again from any process of the cluster."""

import time
from collections.abc import Collection, Iterable, Mapping
from functools import partial

from actors.calls import Answer
from actors.crew.ending import remove
from actors.crew.life import RankLife
from actors.crew.nodes.bundles import bundle, gangs
from actors.crew.nodes.choice import has_room
from actors.crew.nodes.filling import fill
from actors.crew.nodes.nodes import living_nodes, rooms
from actors.crew.patience import decided
from actors.crew.reservation import reserve
from actors.crew.spares import Spares
from actors.crew.starting import Starting
from actors.crew.wanting import Wanting
from moe.errors import ClusterBusy, RankDied, RaymoeError
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat, Seats


class RayCrew:
    """The actors of one run by seat; a seat without a life is lost.

    A seat keeps its reservation when its actor dies, so nobody else takes the room meanwhile.
    """

    def __init__(
        self,
        run: str,
        plan: Plan,
        lives: Mapping[Seat, RankLife],
        detached: bool,
        spares: Spares | None = None,
    ) -> None:
        self._run = run
        self._plan = plan
        self._lives = dict(lives)
        self._places = {seat: life.place for seat, life in lives.items()}
        self._detached = detached
        self._spares = spares or Spares(run, detached)
        self._wanting = Wanting(run)

    @property
    def seats(self) -> Seats:
        """The seats of the plan."""
        return self._plan.seats

    def tell(self, seat: Seat, method: str, *arguments: object) -> Answer:
        """Give one rank a command and return its answer to come."""
        if seat in self._lives:
            return self._lives[seat].tell(method, *arguments)
        answer = Answer()
        answer.set_exception(RankDied(_nobody(seat)))
        return answer

    def lost(self) -> Mapping[Seat, str]:
        """Return the seats whose actors have died, and how, or that have none."""
        ends = {
            seat: self._lives[seat].end if seat in self._lives else _nobody(seat)
            for seat in self.seats
        }
        return {seat: end for seat, end in ends.items() if end is not None}

    def nodes(self) -> Mapping[Seat, str]:
        """Return Ray's id of the node of each seat that has one."""
        return {seat: self._places[seat].node for seat in self.seats if seat in self._places}

    def kill(self, seat: Seat) -> None:
        """End the process of a rank with SIGKILL, also one that hangs; do not wait."""
        if seat in self._lives:
            self._lives[seat].kill()

    def replace(self, seats: Iterable[Seat], seconds: float) -> None:
        """Start new lives on some seats, side by side, within ``seconds``.

        A seat keeps its reservation while its node is there, and as long as it suffices. Where the
        whole gang is replaced and its node is lost, or is to leave, the gang goes to another node
        with room.
        """
        wanted, deadline = {*seats}, time.monotonic() + seconds
        self._end_lives(wanted, deadline)
        while True:
            self._reserve(wanted)
            places = {seat: self._places[seat] for seat in self.seats if seat in wanted}
            starting = Starting(self._plan, self._detached, deadline, self._spares)
            try:
                lives = starting.lives(places)
            except ClusterBusy:
                if time.monotonic() > deadline:
                    raise
            except RaymoeError:
                self._give_back(wanted)
                raise
            else:
                self._lives |= lives
                self._places |= {seat: life.place for seat, life in lives.items()}
                return

    def becoming(self, plan: Plan, stays: Mapping[Seat, Seat], seconds: float) -> "RayCrew":
        """Return a crew for another plan, in which some actors sit on other seats."""
        lives = {new: self._lives[old] for new, old in stays.items()}
        crew = RayCrew(self._run, plan, lives, self._detached, self._spares)
        try:
            crew.replace([seat for seat in plan.seats if seat not in lives], seconds)
        except BaseException:
            crew.leave_to(self)
            raise
        return crew

    def want(self, seats: Collection[Seat]) -> None:
        """Ask for a node for each gang of some seats that needs one."""
        homeless = self._homeless(seats) if seats else ()
        self._wanting.ask(gangs(self._plan, homeless))

    def warm(self, count: int) -> None:
        """Keep ``count`` warm processes on each node that a rank is on or could go to.

        Call again after every change: lives that start take them. Does not wait.
        """
        ranks = [self._plan.rank(seat) for seat in self._plan.seats.of_replica(0)]
        open_ = rooms()
        own = {place.node for place in self._places.values()} & {room.id for room in open_}
        could = {room.id for room in open_ if any(has_room(rank, room) for rank in ranks)}
        self._spares.keep(own | could if count else (), count)

    def spares(self) -> int:
        """Return how many warm processes are ready."""
        return self._spares.ready()

    def leave_to(self, other: "RayCrew") -> None:
        """End the lives and reservations of this crew that another crew does not have."""
        names = self._names() - other._names()
        remove(self._run, names.__contains__)

    def end_others(self) -> None:
        """End every actor and reservation of the run that is not of this crew."""
        own = self._names()
        remove(self._run, lambda name: name not in own)

    def end(self) -> None:
        """End every actor and placement group of the run and wait until they are gone."""
        self._wanting.give_back()
        remove(self._run)

    def _names(self) -> set[str]:
        places = {place.name for place in self._places.values()}
        return places | {life.name for life in self._lives.values()}

    def _end_lives(self, seats: Collection[Seat], deadline: float) -> None:
        """End what is left of some lives, and wait until their names are free."""
        lives = [self._lives[seat] for seat in seats if seat in self._lives]
        for life in lives:
            life.kill()
        for life in lives:
            life.gone(deadline)

    def _give_back(self, seats: Collection[Seat]) -> None:
        """Give the reservations of some seats back after a start in them has failed.

        An actor that is killed while Ray makes it was seen to hold its bundle for ever.
        """
        for seat in seats:
            if seat in self._places:
                self._places.pop(seat).give_back()

    def _reserve(self, seats: Collection[Seat]) -> None:
        """See that each of some seats has a reservation on a node that is there."""
        self._give_back_small(seats)
        gone = self._homeless(seats)
        if not gone:
            return
        if not self._wanting.ready:
            raise ClusterBusy("the room that the run has asked the cluster for is not there yet")
        self._wanting.give_back()
        staying = {seat: place.node for seat, place in self._places.items() if seat not in gone}
        nodes = decided(partial(fill, self._plan, gone, staying))
        made = reserve(self._run, self._plan, nodes, self._detached)
        for seat in gone:
            if seat in self._places:
                self._places[seat].give_back()
        self._places |= made

    def _give_back_small(self, seats: Collection[Seat]) -> None:
        """Give back reservations of less than a seat asks for.

        A process that stayed in a change of plan sits in that of its seat before, and Ray starts no
        other there that asks for more.
        """
        for seat in seats:
            place = self._places.get(seat)
            if place is not None and not place.holds(bundle(self._plan.rank(seat))):
                self._places.pop(seat).give_back()

    def _homeless(self, seats: Collection[Seat]) -> list[Seat]:
        """Return those of some seats that need a new reservation."""
        living, open_ = living_nodes(), {room.id for room in rooms()}
        found = []
        for seat in seats:
            whole = all(each in seats for each in self.seats.gang_of(seat))
            place = self._places.get(seat)
            if place is None or place.node not in (open_ if whole else living):
                found.append(seat)
        return found


def _nobody(seat: Seat) -> str:
    return f"no actor sits on {seat}"
