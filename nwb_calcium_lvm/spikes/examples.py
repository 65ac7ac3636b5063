"""Training examples: stretches of traces with known spikes, at other frame rates and noise levels than they came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from nwb_calcium_lvm.spikes.clocks import average_over, frame_edges, grid_edges
from nwb_calcium_lvm.spikes.traces import Scale, conditions_of, noise_level_of, noise_to_reach

Array = NDArray[np.floating]

_CLEAN = 0.3  # ν under which recordings hardly occur


@dataclass(frozen=True)
class Stretch:
    """A run of frames of one neuron without a gap, and how many spikes had been fired by any time in it.

    Parameters
    ----------
    times, values : ndarray, shape (time,)
        In s, and dF/F (or another unit) as given.
    spike_clock, spikes_until : ndarray, shape (n,)
        Cumulative count of spikes at increasing times in s; linear between them for counts per frame.
    observed : ndarray of bool, shape (time,)
        False where the trace or the spikes are not known.
    rate : float
        Frames per s.
    """

    times: Array
    values: Array
    spike_clock: Array
    spikes_until: Array
    observed: NDArray[np.bool_]
    rate: float

    def counts(self, edges: Array) -> Array:
        """Count the spikes between successive edges."""
        return np.diff(np.interp(edges, self.spike_clock, self.spikes_until))


@dataclass(frozen=True)
class Neuron:
    """All stretches of one neuron, on one scale.

    Parameters
    ----------
    stretches : tuple of Stretch
    scale : Scale
        Of the trace as dF/F (or unchanged), for one ROI; and ``unknown``, as if the unit were not known.
    unknown : Scale
    units : {"dff", "unknown"}
    group : str or int
        Neurons of one group (a data set) are drawn as often as those of another.
    spread : float
        Variance of the target over all stretches, in Hz².
    """

    stretches: tuple[Stretch, ...]
    scale: Scale
    unknown: Scale
    units: str
    group: str | int
    spread: float


@dataclass(frozen=True)
class Augmentation:
    """How examples differ from the recordings they are cut from.

    Parameters
    ----------
    resampled : float
        Share of examples averaged to a lower frame rate, between ``slowest`` and ``fastest`` Hz.
    slowest, fastest : float
        In Hz.
    noisier : float
        Share of examples with white noise added, up to a noise level of ``noisiest``.
    noisiest : float
        ν, in % per square root of Hz.
    unit_lost : float
        Share of dF/F examples shown as if their unit were unknown.
    gain : float
        Standard deviation of the logarithm of a random factor on each dF/F example.
    """

    resampled: float = 0.5
    slowest: float = 5.0
    fastest: float = 100.0
    noisier: float = 0.5
    noisiest: float = 8.0
    unit_lost: float = 0.2
    gain: float = 0.0


class Batch(NamedTuple):
    """Traces and targets on the network's clock, shape (example, time); weight is 0 where nothing is to be learned."""

    traces: NDArray[np.float32]
    targets: NDArray[np.float32]
    weight: NDArray[np.float32]
    conditions: NDArray[np.float32]
    spread: NDArray[np.float32]


@dataclass(frozen=True)
class Cut:
    """How examples are cut: ``length`` samples of a clock of ``rate`` Hz, of which the margins teach nothing."""

    rate: float
    length: int
    before: int
    after: int
    target_sd: float  # s
    target_reach: int = 0  # samples; 0: as far as it goes

    @property
    def seconds(self) -> float:
        """Length of the part that is learned from."""
        return (self.length - self.before - self.after) / self.rate


def draw_batch(
    neurons: list[Neuron], weights: Array, cut: Cut, augmentation: Augmentation, n: int, rng: np.random.Generator
) -> Batch:
    """Draw ``n`` examples from neurons chosen with the given probabilities."""
    chosen = rng.choice(len(neurons), size=n, p=weights)
    drawn = [draw_example(neurons[i], cut, augmentation, rng) for i in chosen]
    traces, counts, weight, conditions = (np.stack(part) for part in zip(*drawn, strict=True))
    targets = smooth(counts * cut.rate, cut)
    spread = np.array([neurons[i].spread for i in chosen])
    return Batch(*(a.astype(np.float32) for a in (traces, targets, weight, conditions, spread)))


def smooth(rates: Array, cut: Cut) -> Array:
    """Smooth targets along the last axis by a Gaussian of ``cut.target_sd``."""
    sd = cut.target_sd * cut.rate
    if sd <= 0:
        return rates
    return gaussian_filter1d(rates, sd, axis=-1, mode="constant", radius=cut.target_reach or None)


def draw_example(
    neuron: Neuron, cut: Cut, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Array, Array, Array, Array]:
    """Cut one example: trace, spike counts, weight and conditions on the network's clock."""
    lengths = np.array([s.times[-1] - s.times[0] for s in neuron.stretches])
    stretch = neuron.stretches[rng.choice(len(lengths), p=lengths / lengths.sum())]
    first, last = stretch.times[0], stretch.times[-1] - cut.seconds
    start = rng.uniform(min(first, last), max(first, last)) - cut.before / cut.rate
    edges = grid_edges(start, cut.length, cut.rate)
    times, values, rate = _at_another_rate(stretch, edges, augmentation, rng)
    as_unknown = neuron.units == "unknown" or rng.random() < augmentation.unit_lost
    scale = neuron.unknown if as_unknown else neuron.scale
    factor = 1.0 if as_unknown else float(np.exp(augmentation.gain * rng.normal()))
    values = (values - scale.baseline[0]) / scale.divisor[0] * factor
    noise = scale.noise[0] / scale.divisor[0] * factor
    frame_rate = scale.rate[0] if scale.rate[0] < 0.75 * stretch.rate else stretch.rate  # slower if interpolated
    own_rate = min(rate, frame_rate)
    noise *= np.sqrt(own_rate / frame_rate)  # averaging white noise over longer frames
    if rng.random() < augmentation.noisier:
        present, own_rate = noise_level_of(noise, own_rate), rate
        lowest = max(present, _CLEAN)
        wanted = np.exp(rng.uniform(np.log(lowest), np.log(max(augmentation.noisiest, lowest))))
        added = noise_to_reach(float(wanted), present, rate)
        values = values + added * rng.normal(size=values.shape)
        noise = float(np.hypot(noise, added))
    trace = average_over(values, times, edges)
    grid = 0.5 * (edges[1:] + edges[:-1])
    weight = (grid >= stretch.times[0]) & (grid <= stretch.times[-1])
    weight &= stretch.observed[np.clip(np.searchsorted(stretch.times, grid), 0, len(stretch.times) - 1)]
    weight[: cut.before] = False
    weight[cut.length - cut.after :] = False
    units = "unknown" if as_unknown else "dff"
    return trace, stretch.counts(edges), weight.astype(float), conditions_of(np.array([noise]), own_rate, units)[0]


def _at_another_rate(
    stretch: Stretch, edges: Array, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Array, Array, float]:
    """Return the frames around the edges, as recorded or averaged over longer frames."""
    margin = 1.0 / augmentation.slowest
    a, b = np.searchsorted(stretch.times, [edges[0] - margin, edges[-1] + margin])
    a, b = max(min(a - 1, len(stretch.times) - 2), 0), min(max(b + 1, 2), len(stretch.times))
    times, values = stretch.times[a:b], stretch.values[a:b]
    fastest = min(stretch.rate, augmentation.fastest)
    if rng.random() >= augmentation.resampled or fastest <= augmentation.slowest or len(times) < 4:
        return times, values, stretch.rate
    rate = float(np.exp(rng.uniform(np.log(augmentation.slowest), np.log(fastest))))
    begin = times[0] + rng.uniform(0.5, 1.5) / rate
    n = int((times[-1] - begin) * rate)
    if n < 4:
        return times, values, stretch.rate
    slower = grid_edges(begin, n, rate)
    return 0.5 * (slower[1:] + slower[:-1]), average_over(values, times, slower), rate


def sampling_weights(neurons: list[Neuron], power: float = 0.5) -> Array:
    """Return how often to draw each neuron: groups count as their number of neurons to ``power``."""
    _, index, sizes = np.unique([str(n.group) for n in neurons], return_inverse=True, return_counts=True)
    weights = sizes[index] ** (power - 1.0)
    return weights / weights.sum()


def target_spread(stretches: tuple[Stretch, ...], cut: Cut) -> float:
    """Return the variance of the smoothed target over all stretches, at least that of one spike in 100 s."""
    parts = []
    for s in stretches:
        limits = frame_edges(s.times)
        n = max(int((limits[-1] - limits[0]) * cut.rate), 1)
        parts.append(smooth(s.counts(grid_edges(limits[0], n, cut.rate)) * cut.rate, cut))
    everything = np.concatenate(parts)
    pulse = np.zeros(int(100 * cut.rate))
    pulse[len(pulse) // 2] = cut.rate
    return float(max(everything.var(), smooth(pulse, cut).var()))
