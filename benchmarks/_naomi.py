"""Traces like those of NAOMi (two-photon simulation by optics and biophysics) for any spikes.

Each recorded cell gives one description: the shape of a transient, common to all cells; a power law from the sum of
transients to dF/F; noise whose variance grows with brightness and that lasts from frame to frame. Fitted by regression
on the known spikes, so that none of our own models of calcium has a part in it.
"""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nwb_calcium_lvm.io.ground_truth import read_ground_truth

_LAGS = 90  # frames of a transient
_RIDGE = 10.0
_POWERS = np.linspace(0.5, 2.5, 41)


class Cell(NamedTuple):
    """dF/F = offset + scale * drive^power + noise; its variance is floor + growth * dF/F above the offset."""

    offset: float
    scale: float
    power: float
    floor: float
    growth: float
    memory: float  # correlation of the noise from frame to frame


@cache
def fitted():
    """Shape of a transient (lag,) with peak 1, and the cells."""
    folder = Path(os.environ["NWB_CALCIUM_LVM_DATA"]) / "ground_truth" / "X-NAOMi-GCaMP6f-simulated"
    pairs = []
    for neuron in read_ground_truth(folder):
        times, trace = neuron.recording.timestamps, neuron.recording.dff[:, 0].astype(float)
        edges = np.append(times, 2 * times[-1] - times[-2])
        pairs.append((trace, np.histogram(neuron.spikes, edges)[0].astype(float)))
    kernels = np.array([_kernel(*pair) for pair in pairs])
    weight = np.array([counts.sum() for _, counts in pairs])
    shape = np.average(kernels / kernels.max(axis=1, keepdims=True), axis=0, weights=weight)
    shape = np.maximum(shape / shape.max(), 0.0)
    return shape, [_cell(trace, drive(counts[:, None], shape)[:, 0]) for trace, counts in pairs]


def drive(counts, shape):
    """Sum of transients, (time, roi)."""
    return np.array([np.convolve(c, shape)[: len(counts)] for c in counts.T]).T


def traces(counts, seed):
    """dF/F (time, roi) of spike counts: every ROI like one of the cells."""
    shape, cells = fitted()
    rng = np.random.default_rng(seed)
    out = np.empty(counts.shape)
    total = drive(counts, shape)
    for n in range(counts.shape[1]):
        cell = cells[rng.integers(len(cells))]
        bright = cell.scale * total[:, n] ** cell.power
        white = rng.standard_normal(len(counts))
        noise = np.empty_like(white)
        noise[0] = white[0]
        for t in range(1, len(noise)):
            noise[t] = cell.memory * noise[t - 1] + np.sqrt(1 - cell.memory**2) * white[t]
        out[:, n] = cell.offset + bright + np.sqrt(cell.floor + cell.growth * bright) * noise
    return out


def _kernel(trace, counts):
    lagged = np.stack([np.concatenate([np.zeros(k), counts[: len(counts) - k]]) for k in range(_LAGS)], axis=1)
    design, target = lagged - lagged.mean(axis=0), trace - trace.mean()
    return np.linalg.solve(design.T @ design + _RIDGE * np.eye(_LAGS), design.T @ target)


def _cell(trace, total):
    def fit(power):
        design = np.column_stack([np.ones_like(total), total**power])
        weights = np.linalg.lstsq(design, trace, rcond=None)[0]
        return weights, trace - design @ weights

    power = min(_POWERS, key=lambda p: (fit(p)[1] ** 2).sum())
    (offset, scale), residual = fit(power)
    design = np.column_stack([np.ones_like(total), np.maximum(trace - residual - offset, 0.0)])
    floor, growth = np.linalg.lstsq(design, residual**2, rcond=None)[0]
    floor = max(floor, 0.1 * residual.var())
    memory = (residual[1:] * residual[:-1]).mean() / residual.var()
    return Cell(offset, scale, power, floor, max(growth, 0.0), float(np.clip(memory, 0.0, 0.95)))
