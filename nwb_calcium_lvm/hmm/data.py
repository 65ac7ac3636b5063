"""Traces as the compiled functions want them: trials end to end, padded to few lengths, cut into chunks."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from nwb_calcium_lvm.hmm.emissions.protocol import Chunk
from nwb_calcium_lvm.observations.starting import scored

_STEPS_PER_OCTAVE = 8  # lengths are padded to one of these per doubling: at most 12.5 % wasted, few compilations


class Data(NamedTuple):
    """All trials on one time axis.

    ``y`` (order + time, roi) has ``order`` rows of zeros in front; ``weight`` (time, roi) is True for samples that
    are scored; ``starts`` (time,) marks the first frame of each trial; ``valid`` (time,) is False in the padding.
    """

    y: Array
    weight: Array
    starts: Array
    valid: Array


def chunk_length(n_rois: int, n_states: int, n_counts: int) -> int:
    """Frames per chunk: as many as keep the working set of a chunk in the processor's cache (a few MB)."""
    per_frame = 8 * n_rois * (n_states + n_counts)
    return int(2 ** np.clip(np.round(np.log2(8e6 / per_frame)), 5, 9))


def padded_length(n_frames: int, chunk: int) -> int:
    """Smallest allowed length that holds ``n_frames``: a multiple of ``chunk``, few values per octave."""
    n_chunks = -(-n_frames // chunk)
    step = max(1, 2 ** int(np.floor(np.log2(n_chunks))) // _STEPS_PER_OCTAVE)
    return chunk * step * (-(-n_chunks // step))


def pack(
    traces: NDArray[np.floating], mask: NDArray[np.bool_], first: NDArray[np.integer], order: int, chunk: int
) -> Data:
    """Build :class:`Data` from traces (time, roi), the mask of observed samples, and each trial's first frame.

    A sample is scored where it and its ``order`` predecessors in the same trial are observed: the first ``order``
    frames of a trial, and as many after a missing sample, are conditioned on.
    """
    n_frames, n_rois = traces.shape
    total = padded_length(n_frames, chunk)
    dtype = traces.dtype if traces.dtype in (np.float32, np.float64) else np.float64
    y = np.zeros((order + total, n_rois), dtype)
    np.copyto(y[order : order + n_frames], traces, where=mask)
    starts = np.zeros(total, bool)
    starts[first] = True
    starts[n_frames:] = True  # each padded frame is a trial of its own, so that nothing flows into or out of it
    weight = np.zeros((total, n_rois), bool)
    weight[:n_frames] = scored(mask, first, order)
    return Data(jnp.asarray(y), jnp.asarray(weight), jnp.asarray(starts), jnp.asarray(np.arange(total) < n_frames))


def after_first(mask: NDArray[np.bool_], first: NDArray[np.integer], order: int) -> NDArray[np.bool_]:
    """Observed samples with at least ``order`` observed ones before them in their trial, gaps or not; (time, roi)."""
    seen = np.cumsum(mask, axis=0)
    ends = np.append(first[1:], len(mask))
    before_trial = np.repeat((seen - mask)[first], ends - first, axis=0)
    return mask & (seen - before_trial > order)


def pack_noisy(
    traces: NDArray[np.floating],
    mask: NDArray[np.bool_],
    first: NDArray[np.integer],
    told: NDArray[np.bool_],
    chunk: int,
) -> tuple[Data, Array]:
    """Return :class:`Data` for models with measurement noise, and the samples whose density is ``told``, padded alike.

    ``weight`` marks all observed samples, since none depends on a known number of others.
    """
    data = pack(traces, mask, first, 0, chunk)
    return data, jnp.asarray(np.pad(told, ((0, data.weight.shape[0] - len(told)), (0, 0))))


def chunk_at(data: Data, start: Array, length: int) -> Chunk:
    """Return frames start .. start + length - 1 in double precision; ``length`` is static."""
    order = data.y.shape[0] - data.weight.shape[0]
    window = lax.dynamic_slice_in_dim(data.y, start, length + order).astype(jnp.float64)
    weight = lax.dynamic_slice_in_dim(data.weight, start, length).astype(jnp.float64)
    lags = [window[order - i : order - i + length] for i in range(1, order + 1)]
    empty = jnp.zeros((0, *weight.shape))
    return Chunk(window[order:], jnp.stack(lags) if lags else empty, weight)
