"""The feeds of a batch as rows of one pass, one after the other."""

from collections.abc import Sequence

from actors.commands import Feed
from moe.nn.inference.rows import Segment


def segments(feeds: Sequence[Feed]) -> list[Segment]:
    """Return the rows of each feed."""
    found, start = [], 0
    for feed in feeds:
        stop = start + feed.count
        found.append(Segment(start, stop, feed.position, feed.table, feed.adapter, feed.prompt))
        start += feed.count
    return found


def wanted_rows(feeds: Sequence[Feed]) -> tuple[list[int], list[int]]:
    """Return the rows whose logits score a prompt, and those from which a token is drawn."""
    scored: list[int] = []
    drawing: list[int] = []
    start = 0
    for feed in feeds:
        scored += range(start, start + len(feed.targets))
        start += feed.count
        if feed.draws:
            drawing.append(start - 1)
    return scored, drawing
