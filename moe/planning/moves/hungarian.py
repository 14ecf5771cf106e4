"""Which column each row takes so that the costs add up to least: the Hungarian method, in O(n² m).

Rows enter one by one. Prices u of rows and v of columns keep every c[i, j] - u[i] - v[j] at 0 or
above and at 0 where i has taken j; a new row gets its column by the cheapest path of such
differences, along which rows change theirs (Jonker and Volgenant's form of it). Whole numbers keep
it exact.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.int64]

_FAR = np.iinfo(np.int64).max // 4


def assign(costs: Costs) -> Sequence[int]:
    """Return a column for every row, each taken once, with the least sum.

    There are no more rows than columns, and no cost is as large as 2^60 over the number of rows.
    """
    rows, columns = costs.shape
    cheapest: list[int] = costs.argmin(axis=1).tolist()
    if len(set(cheapest)) == rows:
        return cheapest
    row_prices = np.zeros(rows + 1, dtype=np.int64)
    column_prices = np.zeros(columns + 1, dtype=np.int64)
    taken = np.full(columns + 1, rows)
    for row in range(rows):
        taken[columns] = row
        _insert(costs, row_prices, column_prices, taken)
    chosen = [0] * rows
    for column, row in enumerate(taken[:columns].tolist()):
        if row < rows:
            chosen[row] = column
    return chosen


def _insert(
    costs: Costs, row_prices: Costs, column_prices: Costs, taken: NDArray[np.int64]
) -> None:
    """Give a column to the row that waits in the last place of ``taken``; free is row ``rows``."""
    rows, columns = costs.shape
    distance = np.full(columns + 1, _FAR)
    before = np.full(columns, columns)
    seen = np.zeros(columns + 1, dtype=np.bool_)
    at = columns
    while taken[at] != rows:
        seen[at] = True
        row = taken[at]
        slack = costs[row] - row_prices[row] - column_prices[:columns]
        nearer = ~seen[:columns] & (slack < distance[:columns])
        distance[:columns][nearer] = slack[nearer]
        before[nearer] = at
        at = int(np.where(seen[:columns], _FAR, distance[:columns]).argmin())
        step = distance[at]
        row_prices[taken[seen]] += step
        column_prices[seen] -= step
        distance[~seen] -= step
    while at != columns:
        taken[at] = taken[before[at]]
        at = before[at]
