"""The ways to infer latents, behind one interface."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.gpfa import fitting, inference
from nwb_calcium_lvm.gpfa.plans import Plan
from nwb_calcium_lvm.gpfa.readouts import Weights
from nwb_calcium_lvm.recording import Recording


class Inferred(NamedTuple):
    """Latents of one recording under fixed weights.

    Attributes
    ----------
    mean : ndarray, shape (time, process)
        Posterior mean of the Gaussian processes.
    covariance : ndarray, shape (time, process, process)
        Their posterior covariance within a frame.
    bound : float
        Evidence lower bound in nats, of the traces as given.
    n_samples : int
        Samples that it is the sum over.
    """

    mean: NDArray[np.floating]
    covariance: NDArray[np.floating]
    bound: float
    n_samples: int


class Engine(Protocol):
    """What an engine does."""

    def fit(
        self, plan: Plan, recording: Recording, settings: fitting.Settings, random_state: Any, warm: Weights | None
    ) -> fitting.Climb:
        """Learn weights and time scales; ``warm`` are weights to start from, in the units of the fit."""
        ...

    def infer(
        self, plan: Plan, recording: Recording, settings: fitting.Settings, weights: Weights, log_timescale: Any
    ) -> Inferred:
        """Find the latents of a recording for fixed weights."""
        ...


class ClosedBound:
    """Deterministic ascent of the closed bound: in state space, or on circles where the kernel is RBF."""

    def fit(
        self, plan: Plan, recording: Recording, settings: fitting.Settings, random_state: Any, warm: Weights | None
    ) -> fitting.Climb:
        """See :class:`Engine`; nothing is random."""
        del random_state
        return fitting.fit(plan, recording, settings, warm)

    def infer(
        self, plan: Plan, recording: Recording, settings: fitting.Settings, weights: Weights, log_timescale: Any
    ) -> Inferred:
        """See :class:`Engine`."""
        with jax.enable_x64(True):
            outcome = inference.infer(plan, recording, settings, weights, log_timescale)
            n = recording.n_frames
            posterior = outcome.posterior
            found = np.asarray(posterior.mean)[:n], np.asarray(posterior.covariance)[:n]
        return Inferred(*found, float(outcome.bound), int(plan.kept.sum()))


class BlackBox(ClosedBound):
    """Stochastic gradients, as in the paper; latents of other recordings are found by the Fourier engine."""

    def fit(
        self, plan: Plan, recording: Recording, settings: fitting.Settings, random_state: Any, warm: Weights | None
    ) -> fitting.Climb:
        """See :class:`Engine`; it starts from the data, whatever ``warm`` holds."""
        del warm
        from nwb_calcium_lvm.gpfa import blackbox

        return blackbox.fit(plan, recording, settings, random_state)


_ENGINES: dict[str, Engine] = {"kalman": ClosedBound(), "fourier": ClosedBound(), "blackbox": BlackBox()}


def engine(name: str) -> Engine:
    """Return the engine of that name."""
    return _ENGINES[name]
