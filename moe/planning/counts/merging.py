"""The work and the memory of merging the experts of a layer for segments (``moe.nn.segments``).

With M = 3 H F numbers of a feed-forward of F held columns, N experts, and S segments of a
micro-batch that are merged in R groups, forward::

    2 N M S FLOPs; reads N M R numbers, writes M S

The backward pass merges again, takes the inner products of experts and gradients, and adds the
gradients to the experts: 3 times the FLOPs. The widths of SmolLM2-135M, sequences of 512, one
thread, processor time on a busy machine, measured and (counted) milliseconds of a micro-batch both
ways: dense block 97 (88); 8 experts for 256 tokens 141 (150), for 64 tokens 215 (217).
"""

from dataclasses import dataclass

from moe.config.merging import segments_at_once
from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.planning.counts.passes import NO_WORK, Passes, Work
from moe.planning.counts.workload import Workload


@dataclass(frozen=True, slots=True)
class Merging:
    """How the experts of a layer are merged in a micro-batch: ``experts`` into so many ``numbers``
    for each of its ``segments``, in ``groups`` of segments.
    """

    experts: int
    numbers: int
    segments: int
    groups: int

    @classmethod
    def of(
        cls, config: ModelConfig, share: Share, layer: int, workload: Workload
    ) -> "Merging | None":
        """Return it, or None for a layer whose experts are not merged.

        A server merges each segment for itself, since a prompt comes in parts.
        """
        moe = config.moe
        if moe is None or moe.segment_tokens is None or not config.has_experts(layer):
            return None
        numbers = 3 * config.hidden_size * (share.ffn[1] - share.ffn[0])
        segments = workload.micro_batch * -(-workload.sequence_length // moe.segment_tokens)
        step = segments_at_once(numbers) if workload.training else 1
        return cls(moe.experts, numbers, segments, -(-segments // step))

    @property
    def numbers_at_once(self) -> int:
        """Merged weights that are in memory at a time."""
        return self.numbers * -(-self.segments // self.groups)


def merging_work(config: ModelConfig, share: Share, layer: int, workload: Workload) -> Passes:
    """Return the work of merging the experts of a layer for the segments of a micro-batch."""
    found = Merging.of(config, share, layer, workload)
    if found is None:
        return Passes(NO_WORK)
    numerics, numbers, read = workload.stored, found.numbers, found.experts * found.groups
    flops = 2.0 * found.experts * numbers * found.segments
    forward = Work(flops, float(numerics.weight * numbers * (read + found.segments)))
    if not workload.training:
        return Passes(forward)
    added = numerics.gradient * numbers * (3 * read + 3 * found.segments)
    return Passes(forward, Work(3 * flops, forward.bytes + added))


def merged_bytes(config: ModelConfig, share: Share, layer: int, workload: Workload) -> int:
    """Return the bytes of merged experts that are in memory at a time; in training also of their
    gradients.
    """
    found = Merging.of(config, share, layer, workload)
    if found is None:
        return 0
    numerics = workload.stored
    more = numerics.activation + numerics.gradient if workload.training else 0
    return (numerics.weight + more) * found.numbers_at_once
