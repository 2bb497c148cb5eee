"""Computes the cheapest assignment of rows to columns. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def assign(cost: F64) -> list[tuple[int, int]]:
    """The min(N, M) pairs of rows and columns of `cost` f64 [N, M], finite, with the least sum.

    Shortest augmenting paths (Jonker and Volgenant 1987), O(N^2 M); equal to
    `scipy.optimize.linear_sum_assignment`, which a node would otherwise install 100 MB for.
    """
    if cost.shape[0] > cost.shape[1]:
        return sorted((row, column) for column, row in assign(cost.T))
    solver = _Assignment(cost)
    for row in range(cost.shape[0]):
        solver.augment(row)
    return [(row, int(column)) for row, column in enumerate(solver.column_of)]


class _Assignment:
    """Rows get their columns one by one; prices keep what is assigned so far the cheapest."""

    def __init__(self, cost: F64) -> None:
        count, width = cost.shape
        self.cost = cost
        self.column_of = np.full(count, -1)
        self.row_of = np.full(width, -1)
        self.row_price, self.column_price = np.zeros(count), np.zeros(width)

    def augment(self, row: int) -> None:
        """Give `row` a column, moving others along the cheapest alternating path."""
        width = len(self.row_of)
        shortest, before = np.full(width, np.inf), np.full(width, -1)
        done, here, least = np.zeros(width, np.bool_), row, 0.0
        while here >= 0:
            reach = least + self.cost[here] - self.row_price[here] - self.column_price
            nearer = ~done & (reach < shortest)
            shortest[nearer], before[nearer] = reach[nearer], here
            column = int(np.argmin(np.where(done, np.inf, shortest)))
            least = float(shortest[column])
            done[column] = True
            here = int(self.row_of[column])
        self._reprice(row, done, shortest, least)
        self._shift(row, column, before)

    def _reprice(self, row: int, done: npt.NDArray[np.bool_], shortest: F64, least: float) -> None:
        passed = np.flatnonzero(done & (self.row_of >= 0))
        self.row_price[row] += least
        self.row_price[self.row_of[passed]] += least - shortest[passed]
        self.column_price[done] -= least - shortest[done]

    def _shift(self, row: int, column: int, before: npt.NDArray[np.int_]) -> None:
        while True:
            here = int(before[column])
            self.row_of[column] = here
            self.column_of[here], column = column, int(self.column_of[here])
            if here == row:
                return
