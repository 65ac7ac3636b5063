"""The climb: starts of several smoothness, a few steps from each, the best one to the end; no step goes down."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from nwb_calcium_lvm.gpfa import fourier, start
from nwb_calcium_lvm.gpfa.data import Data, Layout, pack
from nwb_calcium_lvm.gpfa.frames import Sites
from nwb_calcium_lvm.gpfa.plans import Plan
from nwb_calcium_lvm.gpfa.readouts import Latents, Prior, Weights
from nwb_calcium_lvm.gpfa.readouts.linear import sites as sites_of
from nwb_calcium_lvm.gpfa.vem import (
    FourierMachine,
    KalmanMachine,
    Machine,
    Outcome,
    attempt,
    blend,
    first_sites,
    to_device,
)
from nwb_calcium_lvm.recording import Recording

log = logging.getLogger(__name__)

_WINDOWS = (20, 60, 7, 150, 3)  # frames over which rates are smoothed, one start each
_BURN_IN = 4  # steps from each start before they are compared
_LOADING_SD = 1.0  # of the prior on loadings where relevance is not learned: e-fold changes of rate are large ones
_LEAST_SD = 1e-2  # of the loadings of a latent that relevance has switched off
_DOUBT = 0.1  # variance of the latents of a start
_LONGEST_STEP = 0.4  # of the log of a time scale
PATIENCE = 12  # halvings of a step before the climb counts as done
ROUNDING = 1e-12  # of the bound: what counts as not falling
_SETTLED = 3  # steps in a row that gain less than tol end the climb
# Where calcium's parameters are fitted apart from the steps: after so many, and when the climb has settled.
_STEPS_TO_FIRST_REVISION = 12
_MOST_REVISIONS = 3


@dataclass(frozen=True)
class Settings:
    """What the user chose about the climb."""

    n_latents: int
    kernel: str
    n_init: int
    max_iter: int
    tol: float
    ard: bool
    prior_frames: float
    timescales: NDArray[np.floating] | None
    learn_timescales: bool
    verbose: int


class Point(NamedTuple):
    """Where the climb stands: weights, log time scales, sites, and precision of the loadings' prior."""

    weights: Weights
    log_timescale: NDArray[np.floating]
    sites: Sites
    loading_precision: NDArray[np.floating]


@dataclass(frozen=True)
class Climb:
    """Where a fit ended; bounds in nats, in the units of the fit; ``latents`` with padded frames left out.

    ``window`` is the number of frames over which the start was smoothed, None for a start from given weights.
    """

    weights: Weights
    log_timescale: NDArray[np.floating]
    latents: Latents
    bound: float
    history: NDArray[np.floating]
    converged: bool
    window: int | None = None

    @property
    def n_steps(self) -> int:
        """Steps taken from the start, whose bound is the history's first."""
        return max(len(self.history) - 1, 1)


class Problem(NamedTuple):
    """One recording, ready to be fitted."""

    plan: Plan
    machine: Machine
    data: Data
    layout: Layout
    prior: Prior
    counted: Any
    n_samples: int
    bounds: tuple[float, float]  # of the log time scales


def problem_for(
    plan: Plan, recording: Recording, settings: Settings, log_timescale: NDArray[np.floating] | None = None
) -> Problem:
    """Pack the data, set the priors and choose the engine; call it under x64.

    ``log_timescale`` are the time scales if they are known and stay.
    """
    data, layout = pack(plan.y, recording, plan.readout.order)
    n_rois, p = layout.n_rois, plan.readout.order
    arrays = (plan.offset, plan.variance, plan.floor, np.zeros((n_rois, p)), np.zeros((n_rois, p)))
    precision = np.full(settings.n_latents, _LOADING_SD**-2)
    blocks = [layout.by_block(np.asarray(a, float)) for a in arrays]
    prior = to_device(Prior(precision, np.float64(settings.prior_frames), *blocks))
    counted = jnp.asarray(np.arange(layout.n_blocks * layout.width).reshape(layout.n_blocks, -1) < n_rois)
    longest = float(recording.segments.lengths.max())
    bounds = (0.0, float(np.log(max(2.0 * longest, 2.0))))
    if settings.kernel == "rbf":
        scale = None if log_timescale is None else float(np.exp(log_timescale).max())
        machine: Machine = FourierMachine(*fourier.grid_for(data.clock, layout.n_frames, scale))
        bounds = (0.0, max(float(np.log(longest)), 0.7))  # slower ones would meet themselves around the circle
    else:
        machine = KalmanMachine(settings.kernel, data.clock)
    return Problem(plan, machine, data, layout, prior, counted, max(1, int(plan.kept.sum())), bounds)


def fit(plan: Plan, recording: Recording, settings: Settings, warm: Weights | None = None) -> Climb:
    """Fit from several starts, or from given weights (roi, ...)."""
    with jax.enable_x64(True):
        problem = problem_for(plan, recording, settings)
        total = settings.max_iter + (settings.n_init * _BURN_IN if settings.n_init > 1 else 0)
        with tqdm(total=total, desc="CalciumGPFA", unit="step", disable=not settings.verbose) as bar:
            climber = Climber(problem, settings, bar)
            if warm is not None:
                assert settings.timescales is not None  # of the last fit
                best = climber.start(point_of(problem, recording, warm, np.log(settings.timescales)))
            else:
                best = _best_start(problem, recording, settings, climber)
            climber.climb(best, settings.max_iter)
            bar.total = bar.n
            bar.refresh()
        if not np.isfinite(best.objective):
            raise FloatingPointError(
                f"The fit ended in a bound of {best.objective}. Check the traces for extreme values (dF/F beyond "
                "1e6?), or try fewer latents."
            )
        return best.result(problem)


def _best_start(problem: Problem, recording: Recording, settings: Settings, climber: Climber) -> State:
    """Climb a few steps from each start; return the highest."""
    windows = windows_of(recording, settings.n_init)
    climbs = []
    for window in windows:
        climbs.append(climber.start(first_point(problem, recording, settings, window)))
        if len(windows) > 1:
            climber.climb(climbs[-1], min(_BURN_IN, settings.max_iter))
        climbs[-1].window = window
    ends = [c.objective for c in climbs]
    log.info("bound of the starts with windows of %s frames: %s", windows, np.round(ends, 2))
    return climbs[int(np.argmax(np.where(np.isfinite(ends), ends, -np.inf)))]


def windows_of(recording: Recording, n_init: int) -> list[int]:
    """Windows of the starts in frames, none longer than the longest trial."""
    longest = int(recording.segments.lengths.max())
    return sorted({min(w, max(longest // 2, 1)) for w in _WINDOWS[: max(n_init, 1)]})


def first_point(problem: Problem, recording: Recording, settings: Settings, window: int) -> Point:
    """Weights, time scales and sites from factor analysis of what is smoothed over ``window`` frames."""
    plan = problem.plan
    first = recording.segments.bounds[:, 0]
    if plan.has_spikes:
        values = start.log_rates(plan.signal, plan.kept, first, window)
    else:
        values = start.smooth_within(plan.signal, plan.kept, first, window)
    factors = start.separate(start.factor_analysis(values, settings.n_latents), 2 * window, first)
    if settings.timescales is None:
        low, high = np.exp(problem.bounds)
        scales = start.timescales(factors.latents, first, settings.kernel, 2.0, max(0.5 * high, 2.0))
        scales = np.clip(scales, low, high)
    else:
        scales = settings.timescales
    if plan.has_spikes:
        # So that each neuron's mean rate under the start is the rate it has.
        offset = plan.offset - np.log(np.exp(np.minimum(factors.latents @ factors.loadings.T, 30.0)).mean(axis=0))
    else:
        offset = plan.offset
    weights = Weights(factors.loadings, offset, plan.params)
    return _point_at(problem, weights, np.log(scales), factors.latents)


def _point_at(
    problem: Problem, weights: Weights, log_timescale: NDArray[np.floating], latents: NDArray[np.floating]
) -> Point:
    """Sites for weights (roi, ...) and a guess of the latents (time, latent)."""
    layout = problem.layout
    n_latents = len(log_timescale)
    mean = np.zeros((layout.n_padded, n_latents))
    mean[: layout.n_frames] = latents
    spread = np.broadcast_to(_DOUBT * np.eye(n_latents), (layout.n_padded, n_latents, n_latents))
    weights, guess = to_device((jax.tree.map(layout.by_block, weights), Latents(mean, spread)))
    prior = problem.prior
    sites = first_sites(problem.plan.readout, weights, problem.data, guess, prior, problem.counted)
    return Point(weights, log_timescale, sites, np.asarray(prior.loading_precision))


def point_of(problem: Problem, recording: Recording, weights: Weights, log_timescale: NDArray[np.floating]) -> Point:
    """Sites for weights (roi, ...) where nothing is known of the latents.

    With spikes they are those of a regression on rough rates, as generalised linear models begin: a step from latents
    of 0 goes too far wherever there are more spikes than at rest, by as much as the exponential is steep.
    """
    plan, layout = problem.plan, problem.layout
    if not plan.has_spikes:  # linear in the latents: sites do not depend on them
        return _point_at(problem, weights, log_timescale, np.zeros((layout.n_frames, len(log_timescale))))
    window = int(np.clip(0.5 * np.exp(log_timescale.min()), 1, _WINDOWS[1]))
    log_rate = start.log_rates(plan.signal, plan.kept, recording.segments.bounds[:, 0], window)
    precision = np.where(plan.kept, np.exp(log_rate), 0.0)
    linear = precision * (log_rate - weights.offset)
    found = sites_of(jnp.asarray(weights.loadings), jnp.asarray(precision), jnp.asarray(linear))
    padding = layout.n_padded - layout.n_frames
    sites = Sites(*(jnp.pad(a, ((0, padding), *((0, 0),) * (a.ndim - 1))) for a in found))
    on_device = to_device(jax.tree.map(layout.by_block, weights))
    return Point(on_device, log_timescale, sites, np.asarray(problem.prior.loading_precision))


class State:
    """A climb under way: the best point, what it saw, and how large steps may be."""

    def __init__(self, point: Point, outcome: Outcome, objective: float, scale: NDArray[np.floating]):
        self.point = point
        self.outcome = outcome
        self.objective = objective
        self.history = [objective]
        self.fraction = 1.0
        self.curvature = scale
        self.converged = False
        self.stuck = False
        self.settled = 0
        self.revisions = 0
        self.window: int | None = None

    @property
    def slope(self) -> NDArray[np.floating]:
        """Derivative of the bound with respect to the log time scales."""
        return np.asarray(self.outcome.posterior.gradient)

    def result(self, problem: Problem) -> Climb:
        """What the estimator keeps."""
        weights = jax.tree.map(problem.layout.by_roi, self.point.weights)
        n, posterior = problem.layout.n_frames, self.outcome.posterior
        latents = Latents(np.asarray(posterior.mean)[:n], np.asarray(posterior.covariance)[:n])
        return Climb(
            weights,
            self.point.log_timescale,
            latents,
            float(self.outcome.bound),
            np.array(self.history),
            self.converged,
            self.window,
        )


class Climber:
    """Takes steps that never lower the objective: the bound plus the log density of the weak priors."""

    def __init__(self, problem: Problem, settings: Settings, bar: Any):
        self.problem, self.settings, self.bar = problem, settings, bar

    def look(self, point: Point) -> tuple[Outcome, float]:
        """Evaluate a point."""
        problem = self.problem
        prior = problem.prior._replace(loading_precision=jnp.asarray(point.loading_precision))
        outcome = attempt(
            problem.machine,
            problem.plan.readout,
            point.weights,
            jnp.asarray(point.log_timescale),
            point.sites,
            problem.data,
            prior,
            problem.counted,
            learn=True,
        )
        objective = float(outcome.bound + outcome.seen.log_prior) + self._relevance(point.loading_precision)
        return outcome, objective

    def start(self, point: Point) -> State:
        """Evaluate a start."""
        outcome, objective = self.look(point)
        # Information on a log time scale: about one part per stretch of that length.
        scale = 0.5 * np.maximum(self.problem.layout.n_frames / np.exp(point.log_timescale), 1.0)
        return State(point, outcome, objective, scale)

    def climb(self, state: State, n_steps: int) -> None:
        """Take up to ``n_steps`` steps, fewer if the objective settles."""
        while len(state.history) <= n_steps and not (state.converged or state.stuck) and np.isfinite(state.objective):
            gain = self._step(state)
            self.bar.update()
            self.bar.set_postfix_str(f"{state.objective / self.problem.n_samples:.5f} nats/sample")
            small = gain / self.problem.n_samples < self.settings.tol
            state.settled = state.settled + 1 if small else 0
            # Where no step gains anything the climb is over; one that has never moved has not converged.
            state.stuck = gain == 0.0
            state.converged = state.settled >= _SETTLED or (state.stuck and len(state.history) > 1)
            due = state.converged or (state.revisions == 0 and len(state.history) > _STEPS_TO_FIRST_REVISION)
            if due and self.problem.plan.refine is not None and state.revisions < _MOST_REVISIONS:
                self._revise(state)

    def _revise(self, state: State) -> None:
        """Fit the observation's parameters to the rates of now; each neuron keeps the likelier of old and new."""
        plan, layout, weights = self.problem.plan, self.problem.layout, state.point.weights
        assert plan.refine is not None
        given = jax.tree.map(layout.by_roi, weights)
        latents = np.asarray(state.outcome.posterior.mean)[: layout.n_frames]
        found = plan.refine(given.params, latents @ given.loadings.T + given.offset)
        new = to_device(jax.tree.map(layout.by_block, found))
        tried, _ = self.look(state.point._replace(weights=weights._replace(params=new)))
        better = tried.seen.by_roi > state.outcome.seen.by_roi
        params = jax.tree.map(
            lambda a, b: jnp.where(better.reshape(*better.shape, *[1] * (a.ndim - 2)), a, b), new, weights.params
        )
        point = state.point._replace(weights=weights._replace(params=params))
        outcome, objective = self.look(point)
        state.revisions += 1
        gain = objective - state.objective
        log.info("parameters of calcium fitted again: %.3g nats", gain)
        if gain <= 0:
            return
        state.point, state.outcome, state.objective = point, outcome, objective
        state.history.append(objective)
        if gain / self.problem.n_samples >= self.settings.tol:
            state.converged, state.stuck, state.settled = False, False, 0

    def _step(self, state: State) -> float:
        """One step, shortened until the objective does not fall; returns the gain, 0 if none is left."""
        old = state.point
        direction = np.zeros_like(old.log_timescale)
        if self.settings.learn_timescales:
            direction = np.clip(state.slope / state.curvature, -_LONGEST_STEP, _LONGEST_STEP)
        precision = self._precision(state.outcome.seen.weights)
        fraction, turn, weights = state.fraction, 1.0, state.outcome.seen.weights
        for _ in range(PATIENCE):
            low, high = self.problem.bounds
            point = Point(
                weights,
                np.clip(old.log_timescale + turn * direction, low, high),
                blend(old.sites, state.outcome.seen.target, jnp.asarray(fraction)),
                precision,
            )
            outcome, objective = self.look(point)
            if objective >= state.objective - ROUNDING * abs(state.objective):
                break
            fraction, turn = 0.5 * fraction, 0.3 * turn
            if not self.problem.plan.readout.monotone:
                weights = jax.tree.map(lambda a, b: 0.5 * (a + b), old.weights, weights)
            log.debug("step %d shortened to %g", len(state.history), fraction)
        else:
            return 0.0
        gain = max(objective - state.objective, 0.0)
        self._learn_curvature(state, point.log_timescale - old.log_timescale, np.asarray(outcome.posterior.gradient))
        # What rounding takes away is not told as a fall.
        state.point, state.outcome, state.objective = point, outcome, max(objective, state.objective)
        state.history.append(state.objective)
        state.fraction = min(1.0, 1.5 * fraction)
        return gain

    def _learn_curvature(self, state: State, moved: NDArray[np.floating], slope: NDArray[np.floating]) -> None:
        """Secant estimate of the curvature along each log time scale, between a tenth and ten times the last one."""
        with np.errstate(divide="ignore", invalid="ignore"):
            secant = (state.slope - slope) / moved
        usable = np.isfinite(secant) & (np.abs(moved) > 1e-6)
        secant = np.clip(np.where(usable, secant, state.curvature), 0.3 * state.curvature, 3.0 * state.curvature)
        state.curvature = np.where(usable, np.sqrt(state.curvature * secant), state.curvature)

    def _precision(self, weights: Weights) -> NDArray[np.floating]:
        """Precision of the loadings' prior, from the loadings if relevance is learned."""
        if not self.settings.ard:
            return np.asarray(self.problem.prior.loading_precision)
        loadings = self.problem.layout.by_roi(weights.loadings)
        half = 0.5 * len(loadings)
        return half / (half * _LEAST_SD**2 + 0.5 * (loadings**2).sum(axis=0))

    def _relevance(self, precision: NDArray[np.floating]) -> float:
        """Log density of the loadings' precision and of its normalisation: (N / 2) (log a - a s0^2)."""
        if not self.settings.ard:
            return 0.0
        half = 0.5 * self.problem.layout.n_rois
        return float((half * (np.log(precision) - precision * _LEAST_SD**2)).sum())
