"""The climb: several starts, a few steps from each, the best one to the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray
from tqdm.auto import tqdm

from nwb_calcium_lvm.hmm import start
from nwb_calcium_lvm.hmm.data import Data, chunk_length, pack, pack_noisy
from nwb_calcium_lvm.hmm.em import BLOCK, Model, em_block
from nwb_calcium_lvm.hmm.emissions import CalciumNoisyEmission, Emission, Prior
from nwb_calcium_lvm.hmm.gradient import LEARNING_RATE, constrain, gradient_block, unconstrain
from nwb_calcium_lvm.hmm.inference import Chain
from nwb_calcium_lvm.hmm.plans import Plan
from nwb_calcium_lvm.hmm.propagation import ep_block
from nwb_calcium_lvm.recording import Recording

log = logging.getLogger(__name__)

_BLOCKS_TO_FIRST_REVISION = 3
_MOST_REVISIONS = 3
_SWING = 10.0  # times the tolerance, by which the objective may go up and down about where it stays
_MOVED = 0.01  # of a spike amplitude, by which another round is worth it
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
        chunk = chunk_for(plan.emission, recording.n_rois, settings.n_states)
        solver = _solver(plan, recording, settings, chunk)
        n_starts = settings.n_init if labels is None else 1
        total = settings.max_iter + (n_starts * _BURN_IN if n_starts > 1 else 0)
        with tqdm(total=total, desc="CalciumHMM", unit="step", disable=not settings.verbose) as bar:
            climber = _Climber(solver, settings, bar)
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
    burnt = [climber.climb(model, min(_BURN_IN, settings.max_iter), last=False) for model in candidates]
    ends = [b.log_posteriors[-1] for b in burnt]
    log.info("log posterior of the starts after %d steps: %s", _BURN_IN, np.round(ends, 2))
    best = burnt[int(np.argmax(np.where(np.isfinite(ends), ends, -np.inf)))]
    done = len(best.log_posteriors)
    if (best.converged and not climber.solver.revises) or done >= settings.max_iter:
        return best
    rest = climber.climb(best.model, settings.max_iter - done)
    return Climb(
        rest.model,
        np.concatenate([best.log_likelihoods, rest.log_likelihoods]),
        np.concatenate([best.log_posteriors, rest.log_posteriors]),
        rest.converged,
    )


def chunk_for(emission: Any, n_rois: int, n_states: int) -> int:
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
        kept = recording.mask if plan.features is not plan.signal else plan.kept
        features = start.smooth_within(plan.features, kept, first, frames)
        if labels is None:
            labels = start.cluster(features, settings.n_states, rng)
        else:
            labels = start.complete(labels, features, settings.n_states)
    params = jax.tree.map(jnp.asarray, plan.params_from(labels, factor))
    return Model(chain_from(labels, first, settings.n_states), params)


class _Climber:
    """Runs one solver in compiled blocks and looks at the objective between them."""

    def __init__(self, solver: _Solver, settings: Settings, bar: Any):
        self.solver, self.settings, self.bar = solver, settings, bar

    def climb(self, model: Model, n_steps: int, *, last: bool = True) -> Climb:
        """Take up to ``n_steps`` steps, fewer if the objective settles; if not ``last``, another climb may follow."""
        solver, n_samples = self.solver, self.solver.n_samples
        state = solver.begin(model)
        likelihoods: list[float] = []
        posteriors: list[float] = []
        converged = False
        while len(posteriors) < n_steps and not converged:
            steps = min(BLOCK, n_steps - len(posteriors))
            state, likelihood, posterior = solver.advance(state, steps)
            likelihoods += np.asarray(likelihood)[:steps].tolist()
            posteriors += np.asarray(posterior)[:steps].tolist()
            self.bar.update(steps)
            self.bar.set_postfix_str(f"{posteriors[-1] / n_samples:.5f} nats/sample")
            if not np.isfinite(posteriors[-1]):
                break
            gains = np.diff(posteriors[-steps - 1 :]) / n_samples
            converged = len(gains) > 0 and solver.has_settled(gains, self.settings.tol)
            if last and len(posteriors) < n_steps:
                state, changed = solver.revise(state, converged)
                converged = converged and not changed
        return Climb(solver.end(state), np.array(likelihoods), np.array(posteriors), converged)


class _Solver(Protocol):
    """A way to climb; ``state`` is what it carries from block to block."""

    n_samples: int
    revises: bool

    def begin(self, model: Model) -> Any:
        """Return the state to start from."""
        ...

    def advance(self, state: Any, steps: int) -> tuple[Any, Array, Array]:
        """Take ``steps`` <= BLOCK steps; also return log-likelihood and log posterior at each, (BLOCK,)."""
        ...

    def has_settled(self, gains: NDArray[np.floating], tol: float) -> bool:
        """Whether gains of the last block, in nats per sample, mean that there is no more to be had."""
        ...

    def revise(self, state: Any, settled: bool) -> tuple[Any, bool]:
        """Do what is not done at every step; also return whether it changed anything that matters."""
        ...

    def end(self, state: Any) -> Model:
        """Return the model."""
        ...


def _solver(plan: Plan, recording: Recording, settings: Settings, chunk: int) -> _Solver:
    first, prior = recording.segments.bounds[:, 0], make_prior(plan, settings)
    if isinstance(plan.emission, CalciumNoisyEmission):
        packed = pack_noisy(plan.y, recording.mask, first, plan.told, chunk)
        return _Propagation(plan, plan.emission, *packed, prior, chunk)
    data = pack(plan.y, recording.mask, first, plan.emission.order, chunk)
    return (_ExpectationMaximisation if settings.solver == "em" else _Gradient)(plan.emission, data, prior, chunk)


class _ExpectationMaximisation:
    """Closed-form EM."""

    revises = False

    def __init__(self, emission: Emission, data: Data, prior: Prior, chunk: int):
        self.emission, self.data, self.prior, self.chunk = emission, data, prior, chunk
        self.n_samples = max(1, int(data.weight.sum()))

    def begin(self, model: Model) -> Any:
        """See :class:`_Solver`."""
        return model

    def advance(self, state: Any, steps: int) -> tuple[Any, Array, Array]:
        """See :class:`_Solver`."""
        return em_block(self.emission, state, self.data, self.prior, steps, chunk=self.chunk)

    def has_settled(self, gains: NDArray[np.floating], tol: float) -> bool:
        """Whether the last step gained little: no step loses."""
        return bool(np.abs(gains[-1]) < tol)

    def revise(self, state: Any, settled: bool) -> tuple[Any, bool]:
        """Do nothing."""
        del settled
        return state, False

    def end(self, state: Any) -> Model:
        """See :class:`_Solver`."""
        return state


class _Gradient(_ExpectationMaximisation):
    """Adam on the same objective."""

    def begin(self, model: Model) -> Any:
        """See :class:`_Solver`."""
        free = unconstrain(self.emission, model)
        return free, optax.adam(LEARNING_RATE).init(free)

    def advance(self, state: Any, steps: int) -> tuple[Any, Array, Array]:
        """See :class:`_Solver`."""
        free, moments, likelihood, posterior = gradient_block(
            self.emission, *state, self.data, self.prior, steps, chunk=self.chunk
        )
        return (free, moments), likelihood, posterior

    def end(self, state: Any) -> Model:
        """See :class:`_Solver`."""
        return constrain(self.emission, state[0])


class _Propagation:
    """EM with expectation propagation; calcium's parameters are fitted anew now and then, given the states' rates."""

    revises = True

    def __init__(self, plan: Plan, emission: CalciumNoisyEmission, data: Data, told: Array, prior: Prior, chunk: int):
        self.plan, self.emission, self.data, self.told, self.prior, self.chunk = (
            plan,
            emission,
            data,
            told,
            prior,
            chunk,
        )
        self.n_samples = max(1, int(plan.told.sum()))
        self.blocks, self.revisions = 0, 0

    def begin(self, model: Model) -> Any:
        """See :class:`_Solver`."""
        return model, self.plan.sites, None

    def advance(self, state: Any, steps: int) -> tuple[Any, Array, Array]:
        """See :class:`_Solver`."""
        model, sites, _ = state
        model, sites, likelihood, posterior, probs = ep_block(
            self.emission, model, sites, self.data, self.told, self.prior, steps, chunk=self.chunk
        )
        self.blocks += 1
        return (model, sites, probs), likelihood, posterior

    def has_settled(self, gains: NDArray[np.floating], tol: float) -> bool:
        """Whether a block of steps led nowhere: no objective is sure to rise at each, and this one swings a little."""
        return len(gains) >= BLOCK - 1 and bool(np.abs(gains.mean()) < tol and np.abs(gains).max() < _SWING * tol)

    def revise(self, state: Any, settled: bool) -> tuple[Any, bool]:
        """Fit calcium's parameters again: first after a few blocks, then whenever states and rates have settled."""
        due = settled or (self.revisions == 0 and self.blocks >= _BLOCKS_TO_FIRST_REVISION)
        if not due or self.revisions >= _MOST_REVISIONS:
            return state, False
        model, sites, probs = state
        assert self.plan.refine is not None
        rate = probs @ model.params.rates
        params, moved = self.plan.refine(model.params, np.asarray(rate)[: len(self.plan.y)])
        log.info("calcium's parameters fitted again: amplitudes moved by up to %.3g %%", 100 * moved)
        self.revisions += 1
        model = Model(model.chain, jax.tree.map(jnp.asarray, params))
        return (model, sites, probs), moved > _MOVED

    def end(self, state: Any) -> Model:
        """See :class:`_Solver`."""
        return state[0]
