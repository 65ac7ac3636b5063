"""What the layers of a spike network do: their outputs for a trace, and the frequencies its filters pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from nwb_calcium_lvm.preprocessing import fill_missing
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.spikes.clocks import average_over, grid_over
from nwb_calcium_lvm.spikes.configs import S2SConfig
from nwb_calcium_lvm.spikes.inference import Networks, scale_recording, seen_as
from nwb_calcium_lvm.spikes.network import context
from nwb_calcium_lvm.spikes.traces import conditions_of

Array = NDArray[np.floating]

_POINTS = 1024  # of the Fourier transform


class FrequencyResponse(NamedTuple):
    """Amplitude responses summed over filters, each with its largest value 1, at ``frequency`` in Hz."""

    frequency: Array
    analysis: Array
    synthesis: Array


def layer_outputs(recording: Recording, networks: Networks, config: S2SConfig, member: int) -> dict[str, Array]:
    """Return the output of every layer for a recording of one ROI without gaps, summed over channels."""
    shape = config.architecture
    scale = scale_recording(recording, config)
    told = conditions_of(scale.noise / scale.divisor, scale.rate, seen_as(recording, config))
    times = recording.timestamps
    trace = (fill_missing(recording.dff, recording.mask)[:, 0] - scale.baseline[0]) / scale.divisor[0]
    shown = average_over(trace, times, grid_over(times, shape.rate))
    n = len(shown)
    before, after = context(shape)
    padded = np.pad(shown, (before, -(-n // shape.stride) * shape.stride - n + after), mode="edge")
    network: Any = nnx.merge(networks.graph, networks.members[member])
    found = network.layers(jnp.asarray(padded[None], jnp.float32), jnp.asarray(told, jnp.float32))
    out = {"time": np.arange(n) / shape.rate, "input": shown}
    for name, values in found.items():
        summed = np.asarray(values[0]) if name == "output" else np.repeat(np.asarray(values[0]).sum(-1), shape.stride)
        out[name] = summed[before : before + n]
    return out


def frequency_response(networks: Networks, config: S2SConfig, member: int) -> FrequencyResponse:
    """Return what the filters of one network pass, as cumulative amplitude responses."""
    network: Any = nnx.merge(networks.graph, networks.members[member])
    analysis = np.asarray(network.analysis.kernel[...])  # (taps, stride, channel)
    synthesis = np.asarray(network.synthesis.kernel[...])[::-1]  # (taps, channel, stride), in the order of time
    length = analysis.shape[0] * analysis.shape[1]
    listening = analysis.reshape(length, -1)
    speaking = np.moveaxis(synthesis, 1, 2).reshape(synthesis.shape[0] * synthesis.shape[2], -1)
    responses = [np.abs(np.fft.rfft(f, max(_POINTS, len(f)), axis=0)).sum(axis=1) for f in (listening, speaking)]
    frequency = np.fft.rfftfreq(max(_POINTS, length), 1.0 / config.architecture.rate)
    return FrequencyResponse(frequency, *(r / r.max() for r in responses))


def windowed(counts: Array, segments: Segments, frames: float) -> Array:
    """Sum counts in windows of so many frames centred on each, held at the ends of segments; shape (time, roi)."""
    width = max(round(frames), 1)
    out = np.empty_like(counts, dtype=float)
    for a, b in segments.bounds:
        out[a:b] = uniform_filter1d(counts[a:b].astype(float), width, axis=0, mode="nearest") * frames
    return out
