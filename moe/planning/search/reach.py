"""How far the stages of a 1F1B pipeline reach into the model if its step takes only so long.

Stages are filled one after the other, each with as many layers as the paths through it allow; where
even so the last stage cannot hold what is left, no pipeline takes so short a step. For a stage with
w stages behind it, m micro-batches, a seconds of a micro-batch on it (with what it waits for its
neighbours), S of one on all stages, E on those before it (F of that forward) and R of its
reduction, the step takes at least

    E + m a                          all its micro-batches, after the first came and before the last
                                     goes
    S + (m - 1 - w / 2) a            the mean of two paths that fill and drain through it
    E + 2 (S - E) + (m - 2 - w) a    pass to the end and back, work alone, pass to the end and back
    F + (S - E) + (m - 1 - w / 2) a + R        its last backward, then its gradients are summed

Example: 4 equal layers of 1 s (both ways), 2 stages, 8 micro-batches, no hops, no reduction. Can a
step take 15 s? Stage 0 (w = 1) may take (15 - 8) / 5 = 1.4 s by the third path: 1 layer. Stage 1
would have to hold the other 3, but may take (15 - 4) / 7 = 1.57 s by the second: no. And 19 s?
Stage 0 may take (19 - 8) / 5 = 2.2 s, 2 layers; stage 1 (19 - 2) / 8 = 2.13 s, the other 2: yes.
"""

from bisect import bisect_right
from collections.abc import Sequence

from moe.planning.search.traffic import Traffic


class Reach:
    """How far one number of stages reaches with one number of micro-batches.

    ``before`` and ``ahead`` are seconds, all and forward, and ``held`` parameters of the embedding
    and the layers before each layer; ``total`` and ``all_held`` have the head as well.
    """

    def __init__(
        self,
        layers: tuple[Sequence[float], Sequence[float], Sequence[int]],
        whole: tuple[float, int],
        stages: int,
        micro_batches: int,
        traffic: Traffic,
    ) -> None:
        self._before, self._ahead, self._held = layers
        self._total, self._all_held = whole
        self._stages, self._micro_batches, self._traffic = stages, micro_batches, traffic
        self._hops = [traffic.hops(count) for count in range(stages + 1)]
        self._waits = [traffic.wait(stage, stages) for stage in range(stages)]
        fills = (micro_batches - 1 - (stages - 1 - stage) / 2 for stage in range(stages))
        self._fills = [max(0.0, fill) for fill in fills]

    def within(self, seconds: float) -> bool:
        """Tell whether the stages can hold the model in a step of so many seconds."""
        start, layers = 0, len(self._before) - 1
        for stage in range(self._stages - 1):
            start = min(self._stop(stage, start, seconds), layers - self._stages + 1 + stage)
            if start <= 0:
                return False
        return self._last_holds(start, seconds)

    def _stop(self, stage: int, start: int, seconds: float) -> int:
        """Return the layer before which a stage must stop that begins with ``start``."""
        done, held = self._begun(start)
        most = self._most(stage, done, seconds)
        stop = bisect_right(self._before, done + most, lo=start) - 1
        if stop <= start:
            return stop
        room, fill = self._room(stage, start, seconds), self._fills[stage]
        while stop > start:
            own = fill * (self._before[stop] - done)
            if own + self._traffic.reduction(self._held[stop] - held) <= room:
                break
            stop -= 1
        return stop

    def _last_holds(self, start: int, seconds: float) -> bool:
        stage = self._stages - 1
        done, held = self._begun(start)
        own = self._total - done
        reduction = self._traffic.reduction(self._all_held - held)
        room = self._room(stage, start, seconds)
        return own <= self._most(stage, done, seconds) and (
            self._fills[stage] * own + reduction <= room
        )

    def _begun(self, start: int) -> tuple[float, int]:
        """Return the seconds and parameters before a layer; the embedding is the first stage's."""
        return (self._before[start], self._held[start]) if start else (0.0, 0)

    def _most(self, stage: int, done: float, seconds: float) -> float:
        """Return what layers of a stage may take of a micro-batch by the first three paths."""
        behind, fill = self._stages - 1 - stage, self._fills[stage]
        earlier = done + 2 * self._hops[stage]
        later = self._total - done + 2 * self._hops[behind + 1]
        most = (seconds - earlier) / self._micro_batches
        if fill > 0:
            most = min(most, (seconds - self._total - 2 * self._hops[self._stages]) / fill)
        alone = self._micro_batches - 2 - behind
        if alone > 0:
            most = min(most, (seconds - earlier - 2 * later) / alone)
        return most - self._waits[stage]

    def _room(self, stage: int, start: int, seconds: float) -> float:
        """Return what the fourth path leaves for a stage's micro-batches and its reduction."""
        done, _ = self._begun(start)
        gone = (self._ahead[start] if start else 0.0) + self._total - done
        gone += self._hops[self._stages] + self._hops[self._stages - stage]
        return seconds - gone - self._fills[stage] * self._waits[stage]
