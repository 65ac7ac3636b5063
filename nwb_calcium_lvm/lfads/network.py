"""The network of LFADS: from traces to initial conditions and inputs, through a recurrent generator to log rates.

Axes: B windows, T frames, N neurons. A forward pass draws one sample of everything unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from nwb_calcium_lvm.lfads.priors import AutoregressivePrior, Normal

_CLIP = 5.0  # largest activation of a recurrent unit
_LEAST_VARIANCE = 1e-4  # of a posterior, so that no latent becomes a noiseless channel
_START_VARIANCE = 0.1  # of initial conditions and inputs, before training
_LOG_RATES = (-14.0, 7.0)  # outside, the exponential would be 0 or overflow in single precision


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network.

    Parameters
    ----------
    n_rois : int
        Neurons of the widest session.
    n_sessions : int
        Sessions, each with its own way in and out of the shared network.
    n_encoder, n_controller, n_generator, n_initial : int
        Units of the encoders (each way), the controller and the generator; dimensions of the initial condition.
    n_factors, n_inputs : int
        Factors, and inferred inputs per frame (0: dynamics without input).
    half : bool
        Whether recurrent products are computed in bfloat16.
    """

    n_rois: int
    n_sessions: int
    n_encoder: int
    n_controller: int
    n_generator: int
    n_initial: int
    n_factors: int
    n_inputs: int
    half: bool = False


class Batch(NamedTuple):
    """What the network reads of some windows.

    Attributes
    ----------
    inputs : (B, T, N) array
        Traces as the encoders see them, 0 where nothing is known.
    valid : (B, T) array of bool
        False after the end of a window shorter than the others.
    session : (B,) array of int
        Session of each window.
    """

    inputs: Array
    valid: Array
    session: Array


class Pass(NamedTuple):
    """One forward pass.

    Attributes
    ----------
    log_rates : (B, T, N) array
        Log of the expected spikes per frame.
    factors : (B, T, F) array
    initial : Normal
        Posterior of the initial condition, (B, n_initial).
    initial_sample : (B, n_initial) array
    inputs : Normal
        Posterior of the inputs given those drawn before, (B, T, n_inputs).
    input_sample : (B, T, n_inputs) array
    last : (B, n_generator) array
        The generator at the last valid frame.
    """

    log_rates: Array
    factors: Array
    initial: Normal
    initial_sample: Array
    inputs: Normal
    input_sample: Array
    last: Array


class Cell(nnx.Module):
    """A gated recurrent unit, with the part that does not recur computed for all frames at once."""

    def __init__(self, n_in: int, n: int, half: bool, rngs: nnx.Rngs):
        self.drive = nnx.Linear(n_in, 3 * n, use_bias=False, rngs=rngs) if n_in else None
        self.recur = nnx.Linear(
            n,
            3 * n,
            use_bias=False,
            rngs=rngs,
            dtype=jnp.bfloat16 if half else None,
            kernel_init=nnx.initializers.variance_scaling(1.0, "fan_in", "normal"),
        )
        self.bias = nnx.Param(jnp.concatenate([jnp.zeros(n), jnp.ones(n), jnp.zeros(n)]))  # begin by remembering
        self.n = n

    def __call__(self, state: Array, driven: Array | float) -> Array:
        """Return the next state, (B, n), from what :attr:`drive` made of the inputs of this frame."""
        recurrent = self.recur(state).astype(state.dtype)
        reset, keep, _ = jnp.split(driven + recurrent + self.bias[...], 3, axis=-1)
        driven = jnp.broadcast_to(driven + self.bias[...], recurrent.shape)
        candidate = jnp.tanh(driven[:, 2 * self.n :] + nnx.sigmoid(reset) * recurrent[:, 2 * self.n :])
        keep = nnx.sigmoid(keep)
        return jnp.clip(keep * state + (1.0 - keep) * candidate, -_CLIP, _CLIP)


class Encoder(nnx.Module):
    """Two recurrent networks over the window, one in each direction of time."""

    def __init__(self, n_in: int, n: int, half: bool, rngs: nnx.Rngs):
        self.forward = Cell(n_in, n, half, rngs)
        self.backward = Cell(n_in, n, half, rngs)

    def __call__(self, x: Array, valid: Array) -> tuple[Array, Array]:
        """Return the states of both over time, (T, B, 2 n), and their last ones, (B, 2 n), for x (T, B, n_in)."""
        ahead, last = _run(self.forward, x, valid, reverse=False)
        back, first = _run(self.backward, x, valid, reverse=True)
        return jnp.concatenate([ahead, back], axis=-1), jnp.concatenate([last, first], axis=-1)


def _run(cell: Cell, x: Array, valid: Array, *, reverse: bool) -> tuple[Array, Array]:
    def step(state: Array, frame: tuple[Array, Array]) -> tuple[Array, Array]:
        driven, ok = frame
        state = jnp.where(ok[:, None], cell(state, driven), state)
        return state, state

    start = jnp.zeros((x.shape[1], cell.n), x.dtype)
    assert cell.drive is not None
    last, states = jax.lax.scan(step, start, (cell.drive(x), valid), reverse=reverse)
    return states, last


class LFADSNetwork(nnx.Module):
    """Latent factor analysis via dynamical systems (Pandarinath et al. 2018); see ``docs/lfads.md``."""

    def __init__(self, shape: Architecture, rngs: nnx.Rngs):
        s, half = shape, shape.half
        key = rngs.params
        self.read_in = nnx.Param(jax.random.normal(key(), (s.n_sessions, s.n_rois, s.n_encoder)) * s.n_rois**-0.5)
        self.initial_encoder = Encoder(s.n_encoder, s.n_encoder, half, rngs)
        self.to_initial = nnx.Linear(2 * s.n_encoder, 2 * s.n_initial, rngs=rngs)
        self.to_generator = nnx.Linear(s.n_initial, s.n_generator, rngs=rngs)
        self.generator = Cell(s.n_inputs, s.n_generator, half, rngs)
        self.to_factors = nnx.Param(jax.random.normal(key(), (s.n_generator, s.n_factors)))
        self.read_out = nnx.Param(jax.random.normal(key(), (s.n_sessions, s.n_factors, s.n_rois)) * s.n_factors**-0.5)
        self.log_rate = nnx.Param(jnp.zeros((s.n_sessions, s.n_rois)))
        self.initial_prior = nnx.Param(jnp.stack([jnp.zeros(s.n_initial), jnp.full(s.n_initial, _log_start())]))
        if s.n_inputs:
            self.input_encoder = Encoder(s.n_encoder, s.n_encoder, half, rngs)
            self.controller = Cell(2 * s.n_encoder, s.n_controller, half, rngs)
            self.feedback = nnx.Linear(s.n_factors, 3 * s.n_controller, use_bias=False, rngs=rngs)
            self.to_inputs = nnx.Linear(s.n_controller, 2 * s.n_inputs, rngs=rngs)
            self.input_prior = AutoregressivePrior(s.n_inputs, _START_VARIANCE)
        self.shape = shape

    def __call__(self, batch: Batch, key: Array, dropout: Array | float = 0.0) -> Pass:
        """Draw initial conditions and inputs given what is read, and run the generator."""
        keys = iter(jax.random.split(key, 6))
        x = jnp.einsum("btn,bnd->tbd", batch.inputs, self.read_in[...][batch.session])
        valid = batch.valid.T
        _, ends = self.initial_encoder(x, valid)
        initial = _posterior(self.to_initial(_drop(next(keys), ends, dropout)))
        sample = initial.draw(next(keys))
        n_batch, n_inputs = sample.shape[0], self.shape.n_inputs
        noise = jax.random.normal(next(keys), (len(x), n_batch, n_inputs))
        frames: list[Array] = [valid, noise]
        if n_inputs:
            over_time, _ = self.input_encoder(x, valid)
            assert self.controller.drive is not None
            frames.append(self.controller.drive(_drop(next(keys), over_time, dropout)))
        keep = _kept(next(keys), (len(x), n_batch, self.shape.n_generator), dropout)
        (last, _, _), (factors, mean, log_variance, drawn) = self._unroll(sample, frames, keep)
        inputs = Normal(_by_window(mean), _by_window(log_variance))
        factors = _by_window(factors)
        log_rates = self.rates_of(factors, batch.session)
        return Pass(log_rates, factors, initial, sample, inputs, _by_window(drawn), last)

    def _unroll(self, sample: Array, frames: list[Array], keep: Array):
        """Controller and generator, frame by frame."""
        generator = self.to_generator(sample)
        weights = self.factor_weights()
        n_batch, s = len(sample), self.shape

        def step(carry: tuple[Array, Array, Array], frame: tuple[list[Array], Array]):
            generator, controller, factors = carry
            (ok, noise, *encoded), keep = frame
            mean = log_variance = drawn = jnp.zeros((n_batch, 0))
            driven: Array | float = 0.0
            after = controller
            if s.n_inputs:
                after = self.controller(controller, encoded[0] + self.feedback(factors))
                mean, log_variance = _posterior(self.to_inputs(after))
                drawn = mean + jnp.exp(0.5 * log_variance) * noise
                assert self.generator.drive is not None
                driven = self.generator.drive(drawn)
            ahead = jnp.where(ok[:, None], self.generator(generator, driven), generator)
            factors = (ahead * keep) @ weights
            return (ahead, jnp.where(ok[:, None], after, controller), factors), (factors, mean, log_variance, drawn)

        start = (generator, jnp.zeros((n_batch, s.n_controller)), generator @ weights)
        return jax.lax.scan(step, start, (frames, keep))

    def factor_weights(self) -> Array:
        """Weights from the generator to the factors, (n_generator, F), each column of length 1."""
        weights = self.to_factors[...]
        return weights / jnp.linalg.norm(weights, axis=0, keepdims=True)

    def rates_of(self, factors: Array, session: Array) -> Array:
        """Log of the expected spikes per frame, (B, T, N), for factors (B, T, F)."""
        out = jnp.einsum("btf,bfn->btn", factors, self.read_out[...][session]) + self.log_rate[...][session][:, None]
        return jnp.clip(out, *_LOG_RATES)

    def run_on(self, generator: Array, drawn: Array) -> Array:
        """Factors (B, T, F) of a generator that goes on from a state (B, n_generator) with inputs (B, T, n_inputs)."""
        weights = self.factor_weights()

        def step(state: Array, inputs: Array) -> tuple[Array, Array]:
            state = self.generator(state, self.generator.drive(inputs) if self.generator.drive is not None else 0.0)
            return state, state @ weights

        return _by_window(jax.lax.scan(step, generator, jnp.swapaxes(drawn, 0, 1))[1])

    def prior_of_initial(self) -> Normal:
        """The prior of the initial condition, learned."""
        mean, log_variance = self.initial_prior[...]
        return Normal(mean, log_variance)


def _posterior(out: Array) -> Normal:
    """Split a layer's output into a mean and a log variance that begins small and stays above a floor."""
    mean, free = jnp.split(out, 2, axis=-1)
    return Normal(mean, jnp.log(jnp.exp(free + _log_start()) + _LEAST_VARIANCE))


def _log_start() -> Array:
    return jnp.log(_START_VARIANCE)


def _kept(key: Array, shape: tuple[int, ...], rate: Array | float) -> Array:
    return jax.random.bernoulli(key, 1.0 - rate, shape) / (1.0 - rate)


def _drop(key: Array, x: Array, rate: Array | float) -> Array:
    return x * _kept(key, x.shape, rate)


def _by_window(x: Array) -> Array:
    return jnp.swapaxes(x, 0, 1)
