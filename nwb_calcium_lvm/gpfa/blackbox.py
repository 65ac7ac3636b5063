"""The paper's way to fit, to compare with: stochastic gradients of a sampled bound, by Adam.

A diagonal Gaussian over the Fourier coefficients of an RBF process, *unwhitened* as in the authors' code; the expected
log density by reparametrised samples; loadings, offsets, time scales and the observation model's parameters by the same
gradients. The rate is exp(C x + d), as everywhere here, where the authors' code has a softplus without offset, so that
the two ways can be compared on one objective.

Source: Keeley, Zoltowski, Charles and Pillow, and their public code.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from tqdm.auto import tqdm

from nwb_calcium_lvm import observations
from nwb_calcium_lvm.gpfa import fitting, fourier
from nwb_calcium_lvm.gpfa.data import Data, block_at
from nwb_calcium_lvm.gpfa.plans import Plan
from nwb_calcium_lvm.gpfa.readouts import GaussianReadout, Latents, LinearParams, Weights
from nwb_calcium_lvm.observations.autoregression import stable_ar, unconstrain_ar
from nwb_calcium_lvm.recording import Recording

SAMPLES = 25
LEARNING_RATE = 5e-3
START_LOG_SD = -5.0
_JITTER = 1e-4  # added to prior variances of the coefficients, in units of their largest
STEPS_AT_A_TIME = 25  # between two looks of the host
_VARIANCE_FLOOR = 1e-8


class Free(NamedTuple):
    """Everything that gradients move.

    Attributes
    ----------
    mean : (2, row, frequency, D) array
        Means of the unwhitened coefficients, in units of the largest prior sd.
    log_sd : (2, row, frequency, D) array
        Log of their sds.
    log_timescale : (D,) array
        Log time scales in frames.
    loadings, offset : (block, B, D), (block, B) arrays
        C and d.
    params : dict of arrays
        Unconstrained parameters of the observation model.
    """

    mean: Array
    log_sd: Array
    log_timescale: Array
    loadings: Array
    offset: Array
    params: Any


class Setting(NamedTuple):
    """What stays the same: data, circles, and which neurons count."""

    data: Data
    grid: fourier.Grid
    counted: Array


def negative_bound(free: Free, key: Array, setting: Setting, readout: Any, sizes: fourier.Sizes) -> Array:
    """Minus the sampled evidence lower bound, nats."""
    prior = fourier.prior_sd(free.log_timescale, sizes)
    largest = jax.lax.stop_gradient(prior.max(axis=0))
    prior = jnp.sqrt((prior / largest) ** 2 + _JITTER)[None, None]
    sd = jnp.exp(free.log_sd)
    used = jnp.ones_like(sd).at[1, :, 0].set(0.0).at[:, -1].set(0.0)  # no sine at 0, and no row of padding
    ratio = (sd / prior) ** 2
    divergence = 0.5 * (used * (ratio + (free.mean / prior) ** 2 - 1.0 - jnp.log(ratio))).sum()

    def one(key: Array) -> Array:
        coefs = free.mean + sd * jax.random.normal(key, sd.shape)
        x = fourier.synthesise(coefs, jnp.broadcast_to(largest, prior.shape[2:]), setting.grid, sizes)
        return log_density(free, x, setting, readout)

    values = jax.lax.map(one, jax.random.split(key, SAMPLES))
    return divergence - values.mean()


def log_density(free: Free, latents: Array, setting: Setting, readout: Any) -> Array:
    """Log p(y | x) of all neurons, nats, a block at a time; differentiated with as little memory."""
    blocks = setting.data.blocks

    @jax.checkpoint
    def one(total: Array, part: tuple) -> tuple[Array, None]:
        loadings, offset, params, arrays, real = part
        block = block_at(blocks, arrays)
        eta = latents @ loadings.T + offset
        return total + jnp.where(block.scored & real, _density(readout, params, block, eta), 0.0).sum(), None

    parts = (free.loadings, free.offset, free.params, (blocks.y, blocks.observed, blocks.scored), setting.counted)
    return jax.lax.scan(one, jnp.zeros(()), parts)[0]


def _density(readout: Any, params: Any, block: Any, eta: Array) -> Array:
    if isinstance(readout, GaussianReadout):
        linear = constrain(readout, params)
        moved = observations.autoregression.innovations(block.y, linear.ar_coefs, jnp.zeros_like(linear.noise_variance))
        variance = linear.noise_variance
        return -0.5 * ((moved - eta) ** 2 / variance + jnp.log(2 * jnp.pi * variance))
    model = observations.get(readout.name)
    return model.log_likelihood(block.y, eta, model.constrain(params), block.observed, starts=block.starts)


def unconstrain(readout: Any, params: Any) -> dict[str, Array]:
    """Free numbers of an observation model's parameters."""
    if isinstance(readout, GaussianReadout):
        return {"ar_coefs": unconstrain_ar(params.ar_coefs), "noise_variance": jnp.log(params.noise_variance)}
    return observations.get(readout.name).unconstrain(params)


def constrain(readout: Any, free: dict[str, Array]) -> Any:
    """Invert :func:`unconstrain`."""
    if isinstance(readout, GaussianReadout):
        return LinearParams(stable_ar(free["ar_coefs"]), jnp.exp(free["noise_variance"]) + _VARIANCE_FLOOR)
    return observations.get(readout.name).constrain(free)


@partial(jax.jit, static_argnames=("readout", "sizes", "n_steps"))
def advance(
    free: Free, moments: Any, key: Array, setting: Setting, *, readout: Any, sizes: fourier.Sizes, n_steps: int
) -> tuple[Free, Any, Array]:
    """Take some Adam steps; return also the sampled bound before each."""

    def step(carry: tuple[Free, Any], key: Array) -> tuple[tuple[Free, Any], Array]:
        free, moments = carry
        value, slopes = jax.value_and_grad(negative_bound)(free, key, setting, readout, sizes)
        updates, moments = optax.adam(LEARNING_RATE).update(slopes, moments)
        return (optax.apply_updates(free, updates), moments), -value  # pyright: ignore[reportReturnType]

    (free, moments), values = jax.lax.scan(step, (free, moments), jax.random.split(key, n_steps))
    return free, moments, values


def fit(
    plan: Plan, recording: Recording, settings: fitting.Settings, random_state: np.random.RandomState
) -> fitting.Climb:
    """Fit by ``max_iter`` Adam steps from the same start as the other engines; ``tol`` is not looked at."""
    with jax.enable_x64(True):
        problem = fitting.problem_for(plan, recording, settings)
        window = fitting.windows_of(recording, 1)[0]
        point = fitting.first_point(problem, recording, settings, window)
        machine: Any = problem.machine
        setting = Setting(problem.data, machine.grid, problem.counted)
        shape = (2, machine.sizes.n_rows, machine.sizes.n_frequencies, settings.n_latents)
        free = Free(
            jnp.zeros(shape),
            jnp.full(shape, START_LOG_SD),
            jnp.asarray(point.log_timescale),
            point.weights.loadings,
            point.weights.offset,
            unconstrain(plan.readout, point.weights.params),
        )
        moments: Any = optax.adam(LEARNING_RATE).init(free)  # pyright: ignore[reportArgumentType]
        key = jax.random.key(random_state.randint(2**31 - 1))
        history: list[float] = []
        with tqdm(total=settings.max_iter, desc="CalciumGPFA", unit="step", disable=not settings.verbose) as bar:
            while len(history) < settings.max_iter:
                key, now = jax.random.split(key)
                n_steps = min(STEPS_AT_A_TIME, settings.max_iter - len(history))
                free, moments, values = advance(
                    free, moments, now, setting, readout=plan.readout, sizes=machine.sizes, n_steps=n_steps
                )
                history += np.asarray(values).tolist()
                bar.update(n_steps)
                if not np.isfinite(history[-1]):
                    raise FloatingPointError(
                        f"The sampled bound became {history[-1]} after {len(history)} steps. Use inference='fourier'."
                    )
        return _ended(problem, free, window, machine, np.array(history))


def _ended(problem: fitting.Problem, free: Free, window: int, machine: Any, history: Any) -> fitting.Climb:
    readout, layout = problem.plan.readout, problem.layout
    params = jax.tree.map(layout.by_roi, constrain(readout, free.params))
    weights = Weights(layout.by_roi(free.loadings), layout.by_roi(free.offset), params)
    prior = fourier.prior_sd(free.log_timescale, machine.sizes)
    largest = jnp.broadcast_to(prior.max(axis=0), prior.shape)
    mean = fourier.synthesise(free.mean, largest, machine.grid, machine.sizes)[: layout.n_frames]
    spread = np.zeros((layout.n_frames, mean.shape[1], mean.shape[1]))
    bound = float(history[-STEPS_AT_A_TIME:].mean())
    scales = np.clip(np.asarray(free.log_timescale), *problem.bounds)
    return fitting.Climb(weights, scales, Latents(np.asarray(mean), spread), bound, history, False, window)
