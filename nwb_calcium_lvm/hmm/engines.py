"""How states and activity are inferred by a fitted CalciumHMM: exactly, or by expectation propagation."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.hmm import fitting, learned
from nwb_calcium_lvm.hmm.data import Data, after_first, pack, pack_noisy
from nwb_calcium_lvm.hmm.em import decode_states, filter_states, infer_activity, infer_states
from nwb_calcium_lvm.hmm.emissions.calcium_noisy import CalciumNoisyEmission
from nwb_calcium_lvm.hmm.lockstep import filter_together
from nwb_calcium_lvm.hmm.propagation import believe, most_probable_path
from nwb_calcium_lvm.observations.starting import scored
from nwb_calcium_lvm.recording import Recording

_PADDING = 64  # frames; few lengths, few compilations

Floats = NDArray[np.floating]


class Inferred(NamedTuple):
    """Everything inferred from one recording.

    ``probs`` (time, state), ``path`` (time,), moments of the activity (time, roi); ``calcium`` and ``calcium_variance``
    (time, roi), moments of the trace without measurement noise, where the model knows of such.
    """

    probs: Floats
    path: NDArray[np.integer]
    mean: Floats
    variance: Floats
    log_likelihood: float
    calcium: Floats | None = None
    calcium_variance: Floats | None = None


class Engine(Protocol):
    """What a fitted estimator asks of its inference; each takes a recording of the fitted ROIs."""

    def smooth(self, recording: Recording) -> Floats:
        """p(state | whole trace), (time, state)."""
        ...

    def filter(self, recording: Recording) -> Floats:
        """p(state | trace up to now), (time, state)."""
        ...

    def path(self, recording: Recording) -> NDArray[np.integer]:
        """Most probable path, (time,)."""
        ...

    def activity(self, recording: Recording) -> tuple[Floats, Floats]:
        """Posterior mean and variance of the activity, (time, roi)."""
        ...

    def log_likelihood(self, recording: Recording) -> float:
        """Log density of all scored samples, nats."""
        ...

    def everything(self, recording: Recording) -> Inferred:
        """All of the above."""
        ...


def engine(estimator: Any) -> Engine:
    """Return the engine of a fitted estimator."""
    return (Propagated if estimator.observation == "calcium_noisy" else Exact)(estimator)


class Exact:
    """Forward-backward on a table of densities per frame and state."""

    def __init__(self, estimator: Any):
        self.estimator = estimator

    def smooth(self, recording: Recording) -> Floats:
        """See :class:`Engine`."""
        return self._compute(infer_states, recording).probs[: recording.n_frames]

    def filter(self, recording: Recording) -> Floats:
        """See :class:`Engine`."""
        return self._compute(filter_states, recording).filtered[: recording.n_frames]

    def path(self, recording: Recording) -> NDArray[np.integer]:
        """See :class:`Engine`."""
        return self._compute(decode_states, recording)[: recording.n_frames]

    def activity(self, recording: Recording) -> tuple[Floats, Floats]:
        """See :class:`Engine`."""
        return self._activity(recording, self.smooth(recording))

    def log_likelihood(self, recording: Recording) -> float:
        """See :class:`Engine`."""
        return float(self._compute(infer_states, recording).log_likelihood)

    def everything(self, recording: Recording) -> Inferred:
        """See :class:`Engine`."""
        out = self._compute(infer_states, recording)
        probs = out.probs[: recording.n_frames]
        mean, variance = self._activity(recording, probs)
        return Inferred(probs, self.path(recording), mean, variance, float(out.log_likelihood))

    def _pack(self, recording: Recording) -> tuple[Data, int]:
        emission = learned.emission(self.estimator)
        chunk = fitting.chunk_for(emission, recording.n_rois, self.estimator.n_states)
        return pack(recording.dff, recording.mask, recording.segments.bounds[:, 0], emission.order, chunk), chunk

    def _compute(self, function: Any, recording: Recording) -> Any:
        with jax.enable_x64(True):
            data, chunk = self._pack(recording)
            out = function(learned.emission(self.estimator), learned.model(self.estimator), data, chunk=chunk)
            return jax.tree.map(np.asarray, out)

    def _activity(self, recording: Recording, probs: Floats) -> tuple[Floats, Floats]:
        with jax.enable_x64(True):
            data, chunk = self._pack(recording)
            padded = np.zeros((data.weight.shape[0], self.estimator.n_states))
            padded[: len(probs)] = probs
            params = learned.model(self.estimator).params
            mean, variance = infer_activity(learned.emission(self.estimator), params, data, padded, chunk=chunk)
            variance = np.maximum(np.asarray(variance)[: len(probs)], 0.0)  # rounding may leave it below
            return np.asarray(mean)[: len(probs)], variance


class Propagated:
    """Expectation propagation for whole traces, and a filter of states and calcium in lockstep for densities."""

    def __init__(self, estimator: Any):
        self.estimator = estimator

    def smooth(self, recording: Recording) -> Floats:
        """See :class:`Engine`."""
        return self._believe(recording)[0].probs

    def filter(self, recording: Recording) -> Floats:
        """See :class:`Engine`."""
        return self._filter(recording)[0]

    def path(self, recording: Recording) -> NDArray[np.integer]:
        """See :class:`Engine`."""
        return self._believe(recording)[1]

    def activity(self, recording: Recording) -> tuple[Floats, Floats]:
        """See :class:`Engine`."""
        found = self._believe(recording)[0]
        return found.count_mean, found.count_variance

    def log_likelihood(self, recording: Recording) -> float:
        """See :class:`Engine`."""
        return float(self._filter(recording)[1].sum())

    def everything(self, recording: Recording) -> Inferred:
        """See :class:`Engine`."""
        b, path = self._believe(recording)
        log_likelihood = self.log_likelihood(recording)
        counts = (b.count_mean, b.count_variance)
        return Inferred(b.probs, path, *counts, log_likelihood, b.calcium_mean, b.calcium_variance)

    def _believe(self, recording: Recording) -> tuple[Any, NDArray[np.integer]]:
        """Return :class:`~nwb_calcium_lvm.hmm.propagation.Beliefs` of NumPy arrays, and the most probable path."""
        with jax.enable_x64(True):
            emission = self._emission()
            chunk = fitting.chunk_for(emission, recording.n_rois, self.estimator.n_states)
            first = recording.segments.bounds[:, 0]
            told = after_first(recording.mask, first, emission.order)
            data, told = pack_noisy(recording.dff, recording.mask, first, told, chunk)
            model = learned.model(self.estimator)
            out = believe(emission, model, data, told, chunk=chunk)
            path = most_probable_path(model, data, out.table)
            return jax.tree.map(lambda a: np.asarray(a if a.ndim == 0 else a[: recording.n_frames]), (out, path))

    def _filter(self, recording: Recording) -> tuple[Floats, Floats]:
        with jax.enable_x64(True):
            emission = self._emission()
            # The samples that other likelihoods score, so that they can be compared where some are missing.
            first = recording.segments.bounds[:, 0]
            told = scored(recording.mask, first, emission.order)
            data, told = pack_noisy(recording.dff, recording.mask, first, told, _PADDING)
            out = filter_together(emission, learned.model(self.estimator), data, told)
            return np.asarray(out.probs)[: recording.n_frames], np.asarray(out.log_evidence)[: recording.n_frames]

    def _emission(self) -> CalciumNoisyEmission:
        emission = learned.emission(self.estimator)
        assert isinstance(emission, CalciumNoisyEmission)
        return emission
