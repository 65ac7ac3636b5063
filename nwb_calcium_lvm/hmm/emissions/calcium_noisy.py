"""Calcium behind measurement noise: what the rest of a trace says of a frame's input, and spikes summed out of that.

    x_t = Σ_i α_i x_{t-i} + c s_t + ε_t,   s_t | z_t = k ~ Poisson(λ_k),   ε_t ~ N(0, σ²)
    y_t = x_t + b + w_t,   w_t ~ N(0, τ²)

No sample depends on its own frame's state alone, so that there is no density per frame and state. In its place stands
what the whole trace says of the frame's input ``u_t = c s_t + ε_t``, all other inputs being Gaussian: N(u_t; e_t, V_t).
The evidence of a state is then ``Σ_r N(e_t; c r, V_t + σ²) Poisson(r; λ_k)``, the calcium emission's with a variance
for each frame.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from nwb_calcium_lvm.hmm.emissions.calcium import CalciumEmission
from nwb_calcium_lvm.hmm.emissions.calcium import Params as CountParams
from nwb_calcium_lvm.hmm.emissions.protocol import Chunk, Prior
from nwb_calcium_lvm.observations._state_space import Dynamics, dynamics

_RATE_FLOOR = 1e-12  # spikes per frame; keeps log rates finite


class Params(NamedTuple):
    """λ (state, roi) in spikes per frame; α (roi, order); c, σ², τ² and b (the trace without spikes), each (roi,)."""

    rates: Array
    ar_coefs: Array
    spike_amplitude: Array
    noise_variance: Array
    measurement_variance: Array
    baseline: Array


class Expected(NamedTuple):
    """What a chunk's states and traces say together.

    ``occupancy`` and ``spikes``, (state, roi), are Σ γ and Σ γ E[s | state]; ``mean`` and ``variance`` (time, roi)
    those of the count.
    """

    occupancy: Array
    spikes: Array
    mean: Array
    variance: Array


@dataclass(frozen=True)
class CalciumNoisyEmission:
    """The observation model with counts 0 .. ``max_spikes`` and AR order ``order``.

    A chunk's ``y`` and ``variance`` are mean and variance of the cavities, its ``weight`` 1 for all frames that exist:
    the input of a frame without a sample is known from its neighbours.
    """

    order: int = 1
    max_spikes: int = 10

    @property
    def counts(self) -> CalciumEmission:
        """The sum over counts, as the calcium emission does it for a trace without memory."""
        return CalciumEmission(order=0, max_spikes=self.max_spikes)

    def count_params(self, params: Params) -> CountParams:
        """Return the parameters of :attr:`counts`."""
        none = jnp.zeros((params.spike_amplitude.shape[0], 0), params.spike_amplitude.dtype)
        zero = jnp.zeros_like(params.spike_amplitude)
        return CountParams(params.rates, none, params.spike_amplitude, params.noise_variance, zero)

    def dynamics(self, params: Params) -> Dynamics:
        """Return how calcium goes on by itself."""
        return dynamics(
            params.ar_coefs, params.spike_amplitude, params.measurement_variance, params.baseline, drift=None
        )

    def log_likelihood(self, params: Params, chunk: Chunk) -> Array:
        """Sum over ROIs of the log evidence of each state, shape (time, state)."""
        return self.counts.log_likelihood(self.count_params(params), chunk)

    def expected(self, params: Params, chunk: Chunk, probs: Array) -> Expected:
        """Return posterior moments, given p(state | data) of shape (time, state)."""
        counts = self.counts
        ratio, likelihood, poisson = counts._responsibilities(self.count_params(params), chunk, probs)
        mean, square = counts._moments(ratio, likelihood, poisson)
        grid = jnp.arange(self.max_spikes + 1, dtype=ratio.dtype)
        by_state = jnp.einsum("ntk,ntr->nrk", ratio, likelihood) * poisson
        return Expected(
            probs.T @ chunk.weight,
            jnp.einsum("r,nrk->kn", grid, by_state),
            mean.T,
            jnp.maximum(square - mean**2, 0.0).T,
        )

    def maximise_rates(self, params: Params, occupancy: Array, spikes: Array, prior: Prior) -> Params:
        """Return parameters with the rates that maximise the expected log joint density."""
        rates = (prior.frames * prior.mean + spikes) / jnp.maximum(prior.frames + occupancy, 1e-300)
        return params._replace(rates=jnp.maximum(rates, _RATE_FLOOR))

    def log_prior(self, params: Params, prior: Prior) -> Array:
        """Gamma(1 + κ m, κ) on rates; κ is ``prior.frames``. Calcium's parameters have theirs where they are fitted."""
        return (prior.frames * (prior.mean * jnp.log(params.rates) - params.rates)).sum()

    def n_parameters(self, n_states: int, n_rois: int) -> int:
        """K N rates; α, b, c, σ² and τ² per ROI."""
        return n_states * n_rois + (self.order + 4) * n_rois
