"""One command to many actors: wait for all with a deadline, and name the one that broke."""

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from moe.errors import DeadlineExceeded, RankLost, RaymoeError

_GRACE_SECONDS = 2.0


def gather(refs: Sequence[ObjectRef[Any]], doing: str, seconds: float, first: int = 0) -> list[Any]:
    """Return the answers of ranks ``first``, ``first`` + 1, ... in order.

    The first failure ends the wait. A rank that died is named before neighbours that only noticed:
    these get a short grace, so that the cause and not an effect is reported.
    """
    pending = list(refs)
    deadline = time.monotonic() + seconds
    while pending:
        ready, pending = ray.wait(
            pending, num_returns=1, timeout=max(deadline - time.monotonic(), 0.0)
        )
        if not ready:
            late = [rank for rank, ref in enumerate(refs, first) if ref in pending]
            raise DeadlineExceeded(
                f"ranks {late} did not finish {doing} within {seconds:g} s; look at their logs, "
                "or raise the deadline in the [cluster] section"
            )
        if _failure(ready[0]) is not None:
            raise _cause(refs, doing, first)
    return ray.get(list(refs))


def failed(ref: ObjectRef[Any]) -> bool:
    """Tell whether an answer is there and is an error."""
    return _failure(ref) is not None


def _cause(refs: Sequence[ObjectRef[Any]], doing: str, first: int) -> RaymoeError:
    done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=_GRACE_SECONDS)
    failures = {rank: _failure(ref) for rank, ref in enumerate(refs, first) if ref in done}
    found = {rank: error for rank, error in failures.items() if error is not None}
    for rank, error in found.items():
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            return RankLost(f"rank {rank} died during {doing}: {error}")
    for error in found.values():
        if isinstance(error, RaymoeError) and not isinstance(error, RankLost):
            return _bare(error)
    return _bare(next(iter(found.values())))


def _failure(ref: ObjectRef[Any]) -> Exception | None:
    try:
        ray.get(ref, timeout=0)
    except GetTimeoutError:
        return None
    except (RayError, RaymoeError) as error:
        return error
    return None


def _bare(error: Exception) -> RaymoeError:
    """Return the error as it was raised on the rank, without Ray's remote traceback."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return cause if isinstance(cause, RaymoeError) else RankLost(f"a rank failed: {cause!r}")
