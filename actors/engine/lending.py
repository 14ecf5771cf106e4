"""The ranks of one replica of a training run while they answer, between two steps.

Nothing is exported: the ranks multiply by the parameters that they train, in place. What they take
beside these is memory for keys and values.
"""

from actors.commands import Answering, Batch, BatchOutput
from actors.engine.meeting import Meeting
from actors.engine.passes import Flight, Passes


class Lent:
    """One replica of a run, lent to a server; the driver of the run tells it every batch itself.

    Good for one membership epoch, in which ``open`` comes first. The other replicas wait.
    """

    def __init__(self, meeting: Meeting, replica: int) -> None:
        self._meeting = meeting
        self._seats = meeting.plan.seats.of_replica(replica)
        self._passes = Passes(meeting, self._seats)
        self.replica = replica
        self.stages = len(meeting.plan.stages)

    def open(self, how: Answering) -> None:
        """Have the ranks take memory for keys and values, unless they have it.

        LaunchError where one has no room, and then none of them keeps any. One rank after the
        other, since those of a node share its memory.
        """
        seconds = self._meeting.deadlines.launch
        try:
            for seat in self._seats:
                answer = {seat: self._meeting.crew.tell(seat, "answer_as", how)}
                self._meeting.ask(answer, "making ready to answer", seconds)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Have the ranks give that memory back; do not wait."""
        self._meeting.tell("answer_no_more", seats=self._seats)

    def begin(self, batch: Batch) -> Flight:
        """Tell the ranks a batch and return at once."""
        return self._passes.begin(batch)

    def finish(self, flight: Flight) -> BatchOutput:
        """Wait for a batch and return what came of it; after a failure the run must recover."""
        return self._passes.finish(flight)
