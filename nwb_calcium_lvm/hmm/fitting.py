"""The climb: several starts, a few steps from each, the best one to the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray
from tqdm.auto import tqdm

from nwb_calcium_lvm.hmm import start
from nwb_calcium_lvm.hmm.data import Data, chunk_length, pack
from nwb_calcium_lvm.hmm.em import BLOCK, Model, em_block
from nwb_calcium_lvm.hmm.emissions import Emission, Prior
from nwb_calcium_lvm.hmm.gradient import LEARNING_RATE, constrain, gradient_block, unconstrain
from nwb_calcium_lvm.hmm.inference import Chain
from nwb_calcium_lvm.hmm.plans import Plan
from nwb_calcium_lvm.recording import Recording

log = logging.getLogger(__name__)

_BURN_IN = 10  # EM steps from each start before they are compared
# Window of the smoothing, in decay times, and factor on the spike amplitude, of one start after another: fluctuations
# of many speeds, and amplitudes half and twice as large, since EM cannot leave c/2 or 2c once it is there.
_STARTS = ((3.0, 1.0), (1.5, 1.0), (6.0, 1.0), (3.0, 0.5), (3.0, 2.0), (0.5, 1.0), (12.0, 1.0))


@dataclass(frozen=True)
class Climb:
    """Where a fit ended: model in the units of the fit, histories in nats, and how it stopped."""

    model: Model
    log_likelihoods: NDArray[np.floating]
    log_posteriors: NDArray[np.floating]
    converged: bool


@dataclass(frozen=True)
class Settings:
    """What the user chose about the climb."""

    n_states: int
    n_init: int
    max_iter: int
    tol: float
    solver: str
    stickiness: float
    transition_prior: float
    prior_frames: float
    verbose: int


def make_prior(plan: Plan, settings: Settings) -> Prior:
    """Pseudo-counts and pseudo-frames; see :class:`Prior`. Call it under x64."""
    k = settings.n_states
    transitions = np.full((k, k), settings.transition_prior) + settings.stickiness * np.eye(k)
    initial = np.full(k, settings.transition_prior)
    typical = (plan.typical_mean, plan.typical_variance, plan.floor, plan.ar_mean, plan.ar_precision)
    return Prior(*map(jnp.asarray, (np.float64(settings.prior_frames), *typical, transitions, initial)))


def chain_from(labels: NDArray[np.integer], first: NDArray[np.integer], n_states: int) -> Chain:
    """Transition matrix of a labelling, smoothed by a pseudo-count; transitions over trial borders do not count."""
    counts = np.full((n_states, n_states), 0.1)
    inside = np.ones(len(labels) - 1, bool)
    inside[first[1:] - 1] = False
    np.add.at(counts, (labels[:-1][inside], labels[1:][inside]), 1.0)
    initial = np.bincount(labels[first], minlength=n_states) + 1.0
    return Chain(jnp.asarray(initial / initial.sum()), jnp.asarray(counts / counts.sum(axis=1, keepdims=True)))


def fit(
    plan: Plan, recording: Recording, settings: Settings, rng: np.random.RandomState, labels: NDArray[np.integer] | None
) -> Climb:
    """Fit by EM or gradient from several starts, or from the given labels (time,), -1 where unknown."""
    with jax.enable_x64(True):
        first = recording.segments.bounds[:, 0]
        chunk = chunk_for(plan.emission, recording.n_rois, settings.n_states)
        data = pack(plan.y, recording.mask, first, plan.emission.order, chunk)
        prior = make_prior(plan, settings)
        n_starts = settings.n_init if labels is None else 1
        total = settings.max_iter + (n_starts * _BURN_IN if n_starts > 1 else 0)
        with tqdm(total=total, desc="CalciumHMM", unit="step", disable=not settings.verbose) as bar:
            climber = _Climber(plan.emission, data, prior, chunk, settings, bar)
            candidates = [_candidate(plan, recording, settings, rng, labels, i) for i in range(n_starts)]
            climb = _climb_from(candidates, climber, settings)
            bar.total = bar.n  # steps that convergence saved
            bar.refresh()
        if not np.isfinite(climb.log_posteriors[-1]):
            raise FloatingPointError(
                f"The fit ended in a log posterior of {climb.log_posteriors[-1]} from {n_starts} starts. Check the "
                "traces for extreme values (dF/F beyond 1e6?), or try fewer states."
            )
        return climb


def _climb_from(candidates: list[Model], climber: _Climber, settings: Settings) -> Climb:
    """A few steps from each candidate, then the best one to the end."""
    if len(candidates) == 1:
        return climber.climb(candidates[0], settings.max_iter)
    burnt = [climber.climb(model, min(_BURN_IN, settings.max_iter)) for model in candidates]
    ends = [b.log_posteriors[-1] for b in burnt]
    log.info("log posterior of the starts after %d steps: %s", _BURN_IN, np.round(ends, 2))
    best = burnt[int(np.argmax(np.where(np.isfinite(ends), ends, -np.inf)))]
    done = len(best.log_posteriors)
    if best.converged or done >= settings.max_iter:
        return best
    rest = climber.climb(best.model, settings.max_iter - done)
    return Climb(
        rest.model,
        np.concatenate([best.log_likelihoods, rest.log_likelihoods]),
        np.concatenate([best.log_posteriors, rest.log_posteriors]),
        rest.converged,
    )


def chunk_for(emission: Emission, n_rois: int, n_states: int) -> int:
    """Frames per chunk for this emission."""
    return chunk_length(n_rois, n_states, getattr(emission, "max_spikes", 0) + 1)


def _candidate(
    plan: Plan,
    recording: Recording,
    settings: Settings,
    rng: np.random.RandomState,
    labels: NDArray[np.integer] | None,
    i: int,
) -> Model:
    first = recording.segments.bounds[:, 0]
    window, factor = _STARTS[i % len(_STARTS)]
    if labels is None or (labels < 0).any():
        frames = max(1, round(window * plan.memory))
        features = start.smooth_within(plan.signal, plan.kept, first, frames)
        if labels is None:
            labels = start.cluster(features, settings.n_states, rng)
        else:
            labels = start.complete(labels, features, settings.n_states)
    params = jax.tree.map(jnp.asarray, plan.params_from(labels, factor))
    return Model(chain_from(labels, first, settings.n_states), params)


class _Climber:
    """Runs one solver in compiled blocks and looks at the objective between them."""

    def __init__(self, emission: Emission, data: Data, prior: Prior, chunk: int, settings: Settings, bar: Any):
        self.emission, self.data, self.prior, self.chunk = emission, data, prior, chunk
        self.settings, self.bar = settings, bar
        self.n_samples = max(1, int(data.weight.sum()))

    def climb(self, model: Model, n_steps: int) -> Climb:
        """Take up to ``n_steps`` steps, fewer if the objective settles."""
        advance = self._em if self.settings.solver == "em" else self._gradient
        state: Any = model if self.settings.solver == "em" else self._gradient_state(model)
        likelihoods: list[float] = []
        posteriors: list[float] = []
        converged = False
        while len(posteriors) < n_steps and not converged:
            steps = min(BLOCK, n_steps - len(posteriors))
            state, likelihood, posterior = advance(state, steps)
            likelihoods += np.asarray(likelihood)[:steps].tolist()
            posteriors += np.asarray(posterior)[:steps].tolist()
            self.bar.update(steps)
            self.bar.set_postfix_str(f"{posteriors[-1] / self.n_samples:.5f} nats/sample")
            if not np.isfinite(posteriors[-1]):
                break
            gains = np.diff(posteriors[-steps - 1 :])
            converged = bool(len(gains) and np.abs(gains[-1]) / self.n_samples < self.settings.tol)
        model = state if self.settings.solver == "em" else constrain(self.emission, state[0])
        return Climb(model, np.array(likelihoods), np.array(posteriors), converged)

    def _em(self, model: Model, steps: int):
        return em_block(self.emission, model, self.data, self.prior, steps, chunk=self.chunk)

    def _gradient_state(self, model: Model):
        free = unconstrain(self.emission, model)
        return free, optax.adam(LEARNING_RATE).init(free)

    def _gradient(self, state: Any, steps: int):
        free, moments, likelihood, posterior = gradient_block(
            self.emission, *state, self.data, self.prior, steps, chunk=self.chunk
        )
        return (free, moments), likelihood, posterior
