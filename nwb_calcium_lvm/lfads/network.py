"""The network of LFADS: from traces to initial conditions and inputs, through a recurrent generator to log rates.

Axes: B windows, T frames, N neurons. A forward pass draws one sample of everything unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from nwb_calcium_lvm.lfads.gates import advance
from nwb_calcium_lvm.lfads.priors import AutoregressivePrior, Normal
from nwb_calcium_lvm.lfads.recurrence import Product, recur, times

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


class Encoded(NamedTuple):
    """What the encoders read off some windows.

    Attributes
    ----------
    initial : Normal
        Posterior of the initial condition, (B, n_initial).
    driven : (T, B, 3 n_controller) array or None
        What drives the controller; None without inputs.
    """

    initial: Normal
    driven: Array | None


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
            kernel_init=nnx.initializers.variance_scaling(1.0, "fan_in", "normal"),
        )
        self.bias = nnx.Param(jnp.concatenate([jnp.zeros(n), jnp.ones(n), jnp.zeros(n)]))  # begin by remembering
        self.n, self.half = n, half

    def driven(self, x: Array) -> Array:
        """What the inputs (..., n_in) of frames contribute, (..., 3 n)."""
        if self.drive is None:
            return jnp.broadcast_to(self.bias[...], (*x.shape[:-1], 3 * self.n))
        return self.drive(x) + self.bias[...]

    def kernel(self) -> Array:
        """The recurrent matrix, (n, 3 n), in the type of its products."""
        return self.recur.kernel[...].astype(jnp.bfloat16 if self.half else jnp.float32)


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
    start = jnp.zeros((x.shape[1], cell.n), x.dtype)
    last, states = recur(_encode, {"own": cell.kernel()}, None, start, (cell.driven(x), valid), reverse=reverse)
    return states, last


def _encode(product: Product, constants: None, state: Array, frame: tuple[Array, Array]) -> tuple[Array, Array]:
    driven, ok = frame
    state = jnp.where(ok[:, None], advance(state, driven, product("own", state)), state)
    return state, state


def _run_driven(product: Product, biases: tuple[Array, Array], carry: tuple[Array, Array, Array], frame: Any):
    generator, controller, factors = carry
    valid, keep, noise, driven = frame
    ok = valid[:, None]
    after = advance(controller, driven + product("feedback", factors), product("controller", controller))
    mean, log_variance = _posterior(product("to_inputs", after) + biases[0])
    drawn = mean + jnp.exp(0.5 * log_variance) * noise
    ahead = advance(generator, product("drive", drawn) + biases[1], product("generator", generator))
    ahead = jnp.where(ok, ahead, generator)
    factors = product("factors", ahead * keep)
    return (ahead, jnp.where(ok, after, controller), factors), (factors, mean, log_variance, drawn)


def _run_free(product: Product, bias: Array, generator: Array, frame: Any):
    valid, keep = frame
    recurrent = product("generator", generator)
    ahead = advance(generator, jnp.broadcast_to(bias, recurrent.shape), recurrent)
    ahead = jnp.where(valid[:, None], ahead, generator)
    return ahead, product("factors", ahead * keep)


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
        key_in, key_out = jax.random.split(key)
        return self.decode(self.encode(batch, key_in, dropout), batch, key_out, dropout)

    def encode(self, batch: Batch, key: Array, dropout: Array | float = 0.0) -> Encoded:
        """What the encoders make of the traces; without dropout it holds for every draw."""
        key_ends, key_time = jax.random.split(key)
        x = jnp.einsum("btn,bnd->tbd", batch.inputs, self.read_in[...][batch.session])
        _, ends = self.initial_encoder(x, batch.valid.T)
        initial = _posterior(self.to_initial(_drop(key_ends, ends, dropout)))
        if not self.shape.n_inputs:
            return Encoded(initial, None)
        over_time, _ = self.input_encoder(x, batch.valid.T)
        return Encoded(initial, self.controller.driven(_drop(key_time, over_time, dropout)))

    def decode(self, encoded: Encoded, batch: Batch, key: Array, dropout: Array | float = 0.0) -> Pass:
        """Draw initial conditions and inputs, and run the generator."""
        key_initial, key_noise, key_keep = jax.random.split(key, 3)
        sample = encoded.initial.draw(key_initial)
        n_batch, n_frames = batch.valid.shape
        noise = jax.random.normal(key_noise, (n_frames, n_batch, self.shape.n_inputs))
        keep = _kept(key_keep, (n_frames, n_batch, self.shape.n_generator), dropout)
        if encoded.driven is None:
            last, factors = self._unroll(sample, (batch.valid.T, keep))
            mean = log_variance = drawn = noise  # of no inputs
        else:
            last, stacked = self._unroll(sample, (batch.valid.T, keep, noise, encoded.driven))
            factors, mean, log_variance, drawn = stacked
        inputs = Normal(_by_window(mean), _by_window(log_variance))
        factors = _by_window(factors)
        log_rates = self.rates_of(factors, batch.session)
        return Pass(log_rates, factors, encoded.initial, sample, inputs, _by_window(drawn), last)

    def _unroll(self, sample: Array, frames: tuple[Array, ...]):
        """Controller and generator, frame by frame."""
        s, weights, generator = self.shape, self.factor_weights(), self.to_generator(sample)
        kernels = {"generator": self.generator.kernel(), "factors": weights}
        if not s.n_inputs:
            return recur(_run_free, kernels, self.generator.bias[...], generator, frames)
        assert self.generator.drive is not None
        kernels |= {
            "controller": self.controller.kernel(),
            "feedback": self.feedback.kernel[...],
            "to_inputs": self.to_inputs.kernel[...],
            "drive": self.generator.drive.kernel[...],
        }
        assert self.to_inputs.bias is not None
        biases = (self.to_inputs.bias[...], self.generator.bias[...])
        start = (generator, jnp.zeros((len(sample), s.n_controller)), generator @ weights)
        (last, _, _), stacked = recur(_run_driven, kernels, biases, start, frames)
        return last, stacked

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
        weights, kernel = self.factor_weights(), self.generator.kernel()

        def step(state: Array, driven: Array) -> tuple[Array, Array]:
            state = advance(state, driven, times(state, kernel))
            return state, state @ weights

        return _by_window(jax.lax.scan(step, generator, self.generator.driven(jnp.swapaxes(drawn, 0, 1)))[1])

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
