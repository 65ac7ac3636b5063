"""Long traces cut into windows that overlap by what a network sees, so that limits between them do not show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

LONGEST = 8192  # samples of one trace computed at once, at most
_SAMPLES = 2**14  # of all traces computed at once: layers of more do not stay in a processor's cache (1.7 times slower)


class Chunk(NamedTuple):
    """Some traces over a stretch of time, with what lies before and after it.

    Attributes
    ----------
    rows, frames : slice
        Which traces and samples; they may reach beyond the last.
    window : ndarray, shape (row, before + sample + after, ...)
    conditions : ndarray, shape (row, condition)
    inside : slice
        The samples of ``window`` that are those of ``frames``.
    """

    rows: slice
    frames: slice
    window: Array
    conditions: Array
    inside: slice


def padded_shape(n_rows: int, n: int, stride: int) -> tuple[int, int]:
    """Return the number of rows and samples that the chunks of (n_rows, n) traces fill."""
    rows, length = _sizes(n_rows, n, stride)
    return -(-n_rows // rows) * rows, -(-n // length) * length


def chunks_of(traces: Array, conditions: Array, before: int, after: int, stride: int) -> Iterator[Chunk]:
    """Yield all of the traces (row, time, ...), chunk by chunk.

    Few lengths and few numbers of rows, so that few programs are compiled. Beyond the ends of a trace its first and
    last value are held.
    """
    n_rows, n = traces.shape[:2]
    rows, length = _sizes(n_rows, n, stride)
    all_rows, all_samples = padded_shape(n_rows, n, stride)
    rest = ((0, 0),) * (traces.ndim - 2)
    padded = np.pad(traces, ((0, 0), (before, all_samples - n + after), *rest), mode="edge").astype(np.float32)
    padded = np.pad(padded, ((0, all_rows - n_rows), (0, 0), *rest))
    told = np.pad(np.asarray(conditions, np.float32), ((0, all_rows - n_rows), (0, 0)))
    for first in range(0, all_rows, rows):
        group = slice(first, first + rows)
        for start in range(0, all_samples, length):
            window = padded[group, start : start + length + before + after]
            yield Chunk(group, slice(start, start + length), window, told[group], slice(before, before + length))


def _sizes(n_rows: int, n: int, stride: int) -> tuple[int, int]:
    length = min(LONGEST, _power_of_two(n, stride))
    return min(_power_of_two(n_rows, 1), max(_SAMPLES // length, 1)), length


def _power_of_two(n: int, least: int) -> int:
    return max(1 << max(n - 1, 0).bit_length(), least)
