"""What must hold of a plan's parts: layers follow each other, a gang splits a stage completely."""

from collections.abc import Sequence
from itertools import chain

from moe.errors import PlanError
from moe.planning.plan.chunks import chunk_homes, is_folded

Span = tuple[int, int]

_NOUNS = {
    "kv_heads": "key-value heads",
    "ffn": "feed-forward columns",
    "vocabulary": "rows of the vocabulary",
}


def check_layers(stages: Sequence[Sequence[Span]], layers: int) -> None:
    """Raise PlanError unless the stages hold every layer once, in one of the orders."""
    check_counts([len(spans) for spans in stages])
    folded = is_folded(stages, layers)
    expected = 0
    for chunk, (stage, span) in enumerate(chunk_homes(len(stages), len(stages[0]), folded)):
        start, stop = stages[stage][span]
        if start != expected or stop <= start:
            raise PlanError(
                f"{_where(stage, span, chunk, len(stages[0]))} holds layers [{start}, {stop}) but "
                f"layer {expected} is next; {_order(len(stages), len(stages[0]))}"
            )
        expected = stop
    if expected != layers:
        raise PlanError(
            f"the stages hold {expected} layers but the model has {layers}; "
            "give every layer to a stage"
        )


def check_counts(counts: Sequence[int]) -> None:
    """Raise PlanError unless all stages hold as many spans of layers."""
    for stage, count in enumerate(counts):
        if count != counts[0]:
            raise PlanError(
                f"stage {stage} holds {count} spans of layers, stage 0 holds {counts[0]}; "
                "give every stage the same number of spans"
            )


def _where(stage: int, span: int, chunk: int, spans: int) -> str:
    return f"stage {stage}" if spans == 1 else f"span {span} of stage {stage}, chunk {chunk},"


def _order(stages: int, spans: int) -> str:
    if spans == 1:
        return "give every stage at least one layer, and let stages follow each other without gaps"
    folded = f", or on a V: stage s holds chunks s and {2 * stages - 1} - s" if spans == 2 else ""
    return (
        "give every chunk at least one layer, let chunks follow each other without gaps, and put "
        f"chunk k on stage k mod {stages}{folded}"
    )


def check_spans(stage: int, key: str, spans: Sequence[Span], size: int) -> None:
    """Raise PlanError unless the spans of a gang cover ``size`` once, in order, none empty."""
    expected = 0
    for start, stop in spans:
        if start != expected or stop <= start:
            raise PlanError(
                f"stage {stage}: {key} span [{start}, {stop}) should begin at {expected} and "
                "not be empty; give the ranks of a gang spans without gaps or overlaps"
            )
        expected = stop
    if expected != size:
        raise PlanError(
            f"stage {stage} holds {expected} {_NOUNS[key]} but the model has {size}; "
            "give every one to a rank of the gang"
        )


def check_vocabulary(stage: int, rows: Sequence[Span | None], size: int) -> None:
    """Raise PlanError unless the ranks of a gang split the vocabulary, or each holds all of it."""
    spans = [span for span in rows if span is not None]
    if spans and len(spans) < len(rows):
        raise PlanError(
            f"stage {stage}: {len(spans)} of {len(rows)} ranks hold a span of the vocabulary and "
            "the others all of it; give every rank of a gang a span, or none"
        )
    if spans:
        check_spans(stage, "vocabulary", spans, size)


def check_tied_vocabulary(
    first: Sequence[Span | None], last: Sequence[Span | None], size: int
) -> None:
    """Raise PlanError unless each member of first and last stage holds the same rows.

    A tied matrix stands on both; a member sums its gradient with the same member of the other end.
    """
    for member, (start, end) in enumerate(zip(first, last, strict=True)):
        held, needed = start or (0, size), end or (0, size)
        if held != needed:
            raise PlanError(
                f"the model ties embedding and head, but rank {member} of the gang holds rows "
                f"[{held[0]}, {held[1]}) of the vocabulary in the first stage and "
                f"[{needed[0]}, {needed[1]}) in the last; give it the same rows in both"
            )


def check_own_layers(stage: int, key: str, named: Sequence[int], spans: Sequence[Span]) -> None:
    """Raise PlanError where a stage names a layer twice, or one that it does not hold."""
    held = set(chain.from_iterable(range(*span) for span in spans))
    strange = [layer for layer in named if layer not in held]
    if strange or len(set(named)) < len(named):
        what = f"layer {strange[0]}" if strange else "a layer twice"
        listed = ", ".join(f"[{start}, {stop})" for start, stop in spans)
        raise PlanError(
            f"stage {stage}: {key} names {what}, the stage holds layers {listed}; "
            "name only layers of the stage, each at most once"
        )


def check_experts(label: str, held: Sequence[int], experts: int) -> None:
    """Raise PlanError unless a gang holds every expert once."""
    if sorted(held) != list(range(experts)):
        raise PlanError(
            f"{label} holds experts {sorted(held)} but the model has {experts}; "
            "give every expert to exactly one rank"
        )


def check_shared(stage: int, columns: Sequence[Span], ffn_size: int, shared_size: int) -> None:
    """Raise PlanError where a rank's feed-forward columns bring it none of the shared expert's."""
    for member, span in enumerate(columns):
        start, stop = shared_columns(span, ffn_size, shared_size)
        if shared_size and start == stop:
            raise PlanError(
                f"stage {stage} rank {member}: ffn span [{span[0]}, {span[1]}) of {ffn_size} "
                f"columns brings none of the {shared_size} columns of the shared expert, "
                "which is cut in the same proportion; give the rank a wider ffn span, or lower "
                "plan.gang"
            )


def shared_columns(span: Span, ffn_size: int, shared_size: int) -> Span:
    """Return what ``moe.config.share.shared_span`` does, from the sizes that a plan repeats."""
    return span[0] * shared_size // ffn_size, span[1] * shared_size // ffn_size
