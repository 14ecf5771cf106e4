"""The order of training rows, a pure function of the global step."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from moe.errors import DataError

Rows = npt.NDArray[np.int64]


def rows_of_step(step: int, global_batch: int, seed: int, total_rows: int) -> Rows:
    """Return the rows that step ``step``, counted from 0, trains on.

    Each pass over the data is a permutation of all rows, and a batch may span two passes, so no row
    is lost. The order does not depend on the number of workers.
    """
    if step < 0 or global_batch < 1 or seed < 0 or total_rows < 1:
        raise DataError(
            f"no order for step {step}, batch {global_batch}, seed {seed} over {total_rows} rows; "
            "step and seed start at 0, batch and rows at 1"
        )
    position, stop = step * global_batch, (step + 1) * global_batch
    spans = []
    while position < stop:
        epoch, start = divmod(position, total_rows)
        taken = min(total_rows - start, stop - position)
        spans.append(_permutation(seed, epoch, total_rows)[start : start + taken])
        position += taken
    return np.concatenate(spans)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, total_rows: int) -> Rows:
    """Sort rows by random keys: numpy guarantees stable raw streams, but not a stable
    ``permutation``.
    """
    keys = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(total_rows)
    order = np.argsort(keys, kind="stable")
    order.flags.writeable = False
    return order
