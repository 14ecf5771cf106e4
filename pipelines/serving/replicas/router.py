"""Ray Serve's choice of the replica for a request: the one that has computed its beginning.

Ray sends the source of this file to whoever routes, and imports everything else there.
"""

import random
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from pipelines.serving.replicas.affinity import Affinity, preferred
from pipelines.serving.replicas.asked import Asked


class PrefixRouter(RequestRouter):
    """Prefers who was sent a prompt that begins alike, while others have not much less to do.

    Where nobody was, or who was is busy: of two at random the one with less to do, as Ray does
    without this.
    """

    def initialize_state(self, slack: int) -> None:  # type: ignore[override]
        """Begin: nobody was sent anything yet."""
        self._slack = slack
        self._affinity: Affinity[ReplicaID] = Affinity()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return replicas to try, those to be tried first in the first list."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        living = {replica.replica_id: replica for replica in candidate_replicas}
        found = self._affinity.find(_beginnings(pending_request), living)
        best = preferred(found, living, self._load, self._slack)
        others = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
        return [others] if best is None else [[living[best]], others]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Remember who has a prompt now."""
        self._affinity.note(_beginnings(pending_request), replica_id)

    def _load(self, replica: ReplicaID) -> int:
        return self.replica_queue_len_cache.get(replica) or 0


def _beginnings(pending: PendingRequest | None) -> Sequence[bytes]:
    asked = pending.args[0] if pending is not None and pending.args else None
    return asked.beginnings if isinstance(asked, Asked) else ()
