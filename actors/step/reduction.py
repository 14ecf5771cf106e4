"""Gradients to the replicas that own them, and updated weights back, bucket by bucket.

A bucket leaves as soon as the last backward pass has gone through its layer, while the pass goes on
(``moe.nn.signal``). Every replica goes through its layers in the same order, so buckets meet
whatever the experts of each replica saw.

On gloo a sum over all is faster than a reduction to each owner, and a broadcast from each owner
than a gathering (benchmarks/README.md); other backends have both, and move half as much.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch.distributed as dist

from actors.device import GLOO
from actors.epochs.groups import Groups
from actors.step.buckets import Bucket
from actors.step.clock import Clock
from moe.config.tensors import EMBEDDING


class Reduction:
    """Sums the gradients of one share over the replicas, once a step.

    ``tied`` says that embedding and head are one tensor held on two stages, whose gradients add up;
    ``unlike`` that members of the gang may round differently: what they all hold is then that of
    their leader.
    """

    def __init__(
        self, buckets: Sequence[Bucket], groups: Groups, clock: Clock, tied: bool, unlike: bool
    ) -> None:
        self._buckets = buckets
        self._groups = groups
        self._clock = clock
        self._unlike = unlike
        self._ends = groups.ends if tied else None
        self._of_layer: dict[int, list[Bucket]] = defaultdict(list)
        for bucket in buckets:
            if bucket.kind.layer is not None:
                self._of_layer[bucket.kind.layer].append(bucket)
        self._sent: set[int] = set()
        self._works: list[dist.Work] = []

    def reached(self, layer: int) -> None:
        """Send the gradients of a layer on their way; they are whole."""
        for bucket in self._of_layer[layer]:
            self._send(bucket)

    def send_rest(self) -> None:
        """Send what is left once all passes are done: every gradient is on its way."""
        for bucket in self._buckets:
            if id(bucket) not in self._sent:
                self._add_ends(bucket)
                self._send(bucket)

    def finish(self) -> None:
        """Wait for all that was sent: this replica's slices are whole."""
        self._wait()
        self._sent.clear()

    def spread(self) -> None:
        """Give what each replica has updated to all of them, in the type of weights, and wait."""
        if self._unlike and self._groups.gang is not None:
            leader = self._groups.membership.at(member=0)
            for bucket in self._buckets:
                if bucket.kind.common:
                    dist.broadcast(bucket.owned, leader, group=self._groups.gang)
        for bucket in self._buckets:
            bucket.publish()
            if self._groups.data is not None:
                self._works += _share_out(bucket, self._groups)
        self._wait()

    def _wait(self) -> None:
        """Wait for messages under way, and forget them."""
        while self._works:
            with self._clock.waiting("replicas"):
                self._works.pop(0).wait()

    def _add_ends(self, bucket: Bucket) -> None:
        """Add the gradients of a tied embedding on both its stages.

        Both hold the same rows in buckets alike, so their sums and updates stay the same bits.
        """
        if self._ends is not None and bucket.kind.end == EMBEDDING:
            with self._clock.waiting("stages"):
                dist.all_reduce(bucket.gradients, group=self._ends)

    def _send(self, bucket: Bucket) -> None:
        self._sent.add(id(bucket))
        group = self._groups.data
        if group is None:
            return
        if self._groups.backend == GLOO:
            work = dist.all_reduce(bucket.gradients, group=group, async_op=True)
        else:
            reduce = _named("reduce_scatter_single", "reduce_scatter_tensor")
            own = bucket.gradients[bucket.own]
            work = reduce(own, bucket.gradients, group=group, async_op=True)
        self._works.append(work)


def _share_out(bucket: Bucket, groups: Groups) -> list[dist.Work]:
    group = groups.data
    if groups.backend != GLOO:
        gather = _named("all_gather_single", "all_gather_into_tensor")
        own = bucket.weights[bucket.own]
        return [gather(bucket.weights, own, group=group, async_op=True)]
    return [
        dist.broadcast(part, groups.membership.at(replica=owner), group=group, async_op=True)
        for owner, part in enumerate(bucket.slices)
    ]


def _named(name: str, before: str) -> Callable[..., dist.Work]:
    """Return a function of torch by its name of today, or by the one before torch 2.13."""
    found: Callable[..., dist.Work] = getattr(dist, name, None) or getattr(dist, before)
    return found
