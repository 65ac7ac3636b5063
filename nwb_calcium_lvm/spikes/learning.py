"""From recordings with known spikes to trained, calibrated networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.spikes.calibration import WINDOWS, Calibration, find_dispersion, find_gain
from nwb_calcium_lvm.spikes.clocks import count_over, frame_edges, integrate_over
from nwb_calcium_lvm.spikes.configs import S2SConfig
from nwb_calcium_lvm.spikes.examples import Cut, Neuron, Stretch, target_spread
from nwb_calcium_lvm.spikes.inference import Networks, rates_of, seen_as
from nwb_calcium_lvm.spikes.traces import scale_of
from nwb_calcium_lvm.spikes.training import Report, cut_of, train

Array = NDArray[np.floating]

_INSTANT = 1e-7  # s over which a spike is counted, so that counting is one interpolation
_SECONDS_OF_A_STRETCH = 0.5  # shorter ones teach nothing


def neurons_of(
    recordings: list[Recording], spikes: list[list[Array]], groups: list[Any], config: S2SConfig
) -> list[Neuron]:
    """Return every ROI with any observed sample as a neuron to learn from.

    Parameters
    ----------
    recordings : list of Recording
    spikes : list of list of ndarray
        Spike times of each ROI of each recording, in s.
    groups : list
        Data set of each recording.
    config : S2SConfig

    Raises
    ------
    DataError
        Where there is nothing to learn from: no trace, or no spike.
    """
    cut = cut_of(config)
    out = [
        _neuron(recording.isel(roi=[roi]), times[roi], group, config, cut)
        for recording, times, group in zip(recordings, spikes, groups, strict=True)
        for roi in np.flatnonzero(recording.usable)
    ]
    kept = [n for n in out if n.stretches]
    if not kept:
        raise DataError(
            f"None of {sum(r.n_rois for r in recordings)} ROIs can be learned from (n_samples={len(recordings[0])} "
            "frames in the first recording): all are constant, never observed, or under "
            f"{_SECONDS_OF_A_STRETCH} s long. Expected some seconds of dF/F with the neuron's spikes."
        )
    if not any(s.spikes_until[-1] for n in kept for s in n.stretches):
        known = sum(len(t) for times in spikes for t in times)
        clock = recordings[0].timestamps
        raise DataError(
            f"Of the {known} spikes of y none lies in a recording, and without spikes there is nothing to learn. "
            f"Expected times in s on the recording's clock (the first goes from {clock[0]:.6g} to {clock[-1]:.6g} s), "
            "or counts per frame."
        )
    return kept


def _neuron(recording: Recording, spikes: Array, group: Any, config: S2SConfig, cut: Cut) -> Neuron:
    parts = [
        _stretch(recording, int(a), int(b), spikes)
        for a, b in recording.segments.bounds
        if b - a > 2 and recording.timestamps[b - 1] - recording.timestamps[a] >= _SECONDS_OF_A_STRETCH
    ]
    stretches = tuple(s for s in parts if s.observed.any())
    units = seen_as(recording, config)
    rate = recording.sampling_rate or 1.0
    scales = [scale_of(recording.dff, recording.mask, recording.segments, rate, u) for u in (units, "unknown")]
    spread = target_spread(stretches, cut) if stretches else 1.0
    return Neuron(stretches, scales[0], scales[1], units, str(group), spread)


def _stretch(recording: Recording, a: int, b: int, spikes: Array) -> Stretch:
    times = recording.timestamps[a:b]
    limits = frame_edges(times)
    own = spikes[(spikes >= limits[0]) & (spikes < limits[-1])]
    count = np.arange(len(own), dtype=float)
    clock = np.column_stack([own - _INSTANT, own]).ravel()
    until = np.column_stack([count, count + 1]).ravel()
    observed = recording.mask[a:b, 0]
    values = recording.dff[a:b, 0].astype(float)
    if not observed.all() and observed.any():
        values = np.interp(times, times[observed], values[observed])
    return Stretch(
        times,
        values,
        np.concatenate([[limits[0] - 1.0], np.maximum.accumulate(clock), [limits[-1] + 1.0]]),
        np.concatenate([[0.0], until, [float(len(own))]]),
        observed,
        (len(times) - 1) / (times[-1] - times[0]),
    )


def learn(
    recordings: list[Recording],
    spikes: list[list[Array]],
    groups: list[Any],
    config: S2SConfig,
    seeds: list[int],
    *,
    start: Networks | None = None,
    folder: Path | None = None,
    report: Callable[[int], Report] | None = None,
) -> tuple[Networks, Calibration, Array]:
    """Train the networks of an ensemble one after another, and calibrate their mean.

    Parameters
    ----------
    recordings, spikes, groups, config
        As in :func:`neurons_of`.
    seeds : list of int
        One per network.
    start : Networks, optional
        To go on from, one per seed.
    folder : Path, optional
        For checkpoints, ``member_0.npz`` and so on.
    report : callable, optional
        Given the number of a network, returns what is called at each check of its training.

    Returns
    -------
    networks, calibration, history
        ``history`` has columns network, steps, training loss, loss on the neurons left out.
    """
    neurons = neurons_of(recordings, spikes, groups, config)
    members, histories, graph = [], [], None
    for i, seed in enumerate(seeds):
        trained = train(
            neurons,
            config,
            seed,
            start=None if start is None else start.members[i],
            checkpoint=None if folder is None else folder / f"member_{i}.npz",
            report=None if report is None else report(i),
        )
        graph = trained.graph
        members.append(trained.params)
        histories.append(np.column_stack([np.full(len(trained.history), i), trained.history]))
    networks = Networks(graph, tuple(members), 1.0)
    calibration = calibrate(recordings, spikes, groups, networks, config)
    return networks._replace(gain=calibration.gain), calibration, np.concatenate(histories)


def calibrate(
    recordings: list[Recording], spikes: list[list[Array]], groups: list[Any], networks: Networks, config: S2SConfig
) -> Calibration:
    """Find the gain and the dispersion of counts from predictions for neurons with known spikes."""
    if not config.calibrated:
        return Calibration(1.0, np.array(WINDOWS), np.ones(len(WINDOWS)), 0)
    pairs = [pair for r, s in zip(recordings, spikes, strict=True) for pair in predicted_counts(r, s, networks, config)]
    labels = np.array([str(g) for r, g in zip(recordings, groups, strict=True) for _ in range(r.n_rois)])
    known = [i for i, p in enumerate(pairs) if p is not None]
    kept = [p for p in pairs if p is not None]
    if not kept:
        return Calibration(1.0, np.array(WINDOWS), np.ones(len(WINDOWS)), 0)
    totals = np.array([[p.total_rate, p.total_spikes] for p in kept])
    gain = find_gain(totals[:, 0], totals[:, 1], labels[known])
    dispersion = []
    for window in WINDOWS:
        counted = [c for p in kept if (c := p.in_windows(window)) is not None]
        dispersion.append(find_dispersion([gain * m for m, _ in counted], [k for _, k in counted]) if counted else 1.0)
    return Calibration(gain, np.array(WINDOWS), np.array(dispersion), len(kept))


class Predicted:
    """Predicted rates of one neuron beside its spikes, segment by segment."""

    def __init__(self, rates: Array, times: Array, segments: Segments, spikes: Array):
        self.parts = [(rates[a:b], frame_edges(times[a:b])) for a, b in segments.bounds if b - a > 1]
        self.spikes = spikes

    @property
    def total_rate(self) -> float:
        """Expected number of spikes."""
        return float(sum((r * np.diff(e)).sum() for r, e in self.parts))

    @property
    def total_spikes(self) -> float:
        """Number of spikes."""
        return float(sum(count_over(self.spikes, e[[0, -1]]).sum() for _, e in self.parts))

    def in_windows(self, window: float) -> tuple[Array, Array] | None:
        """Return expected and true counts in windows of that many s; None where no segment is so long."""
        expected, true = [], []
        for rates, edges in self.parts:
            n = int((edges[-1] - edges[0]) / window)
            if n > 0:
                limits = edges[0] + np.arange(n + 1) * window
                expected.append(integrate_over(rates, edges, limits))
                true.append(count_over(self.spikes, limits))
        return (np.concatenate(expected), np.concatenate(true)) if expected else None


def predicted_counts(
    recording: Recording, spikes: list[Array], networks: Networks, config: S2SConfig
) -> list[Predicted | None]:
    """Return rates beside spikes for each ROI; None for one that has no rates."""
    rates = rates_of(recording, networks, config, lag=0.0)
    return [
        Predicted(rates[:, roi], recording.timestamps, recording.segments, spikes[roi])
        if np.isfinite(rates[:, roi]).all()
        else None
        for roi in range(recording.n_rois)
    ]
