"""Expectation propagation between a Markov chain and calcium behind measurement noise.

The law of every frame's input (spikes and process noise) is replaced by a Gaussian *site*. Given all sites each neuron
is a linear Gaussian system, whose filters say what the whole trace, but for the law of a frame's own input, knows of
that input: its *cavity*. Cavities make the table of evidences over states that the forward-backward algorithm takes;
its posterior over states gives the law of each input, and a site with the same moments. At the fixed point all agree.

One pass costs the two filters on top of what an E-step of the calcium emission costs. Memory is that of a few arrays of
the size of the traces, and of the filters for a block of ROIs.

Reference: Minka (2001), Expectation propagation for approximate Bayesian inference.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nwb_calcium_lvm.hmm.data import Data
from nwb_calcium_lvm.hmm.em import BLOCK, Model, log_prior, update_chain
from nwb_calcium_lvm.hmm.emissions.calcium_noisy import CalciumNoisyEmission, Params
from nwb_calcium_lvm.hmm.emissions.protocol import Chunk, Prior
from nwb_calcium_lvm.hmm.inference import Chain, Smoothed, smooth, viterbi
from nwb_calcium_lvm.observations import _state_space as space
from nwb_calcium_lvm.observations._state_space import Sites
from nwb_calcium_lvm.observations.calcium_noisy import evidence_of_sites

PASSES = 10  # over all frames, for given parameters
_SAMPLES_AT_ONCE = 1_000_000  # frames x ROIs whose filters are held at one time
_DAMPING = 0.5  # share of a new site: all change at once, and at 0.8 some swing for ever
_WIDEST = 1e3  # variance of a site, in squared spikes plus noise: as good as none


class Around(NamedTuple):
    """What the trace but a frame's own law says of its input, and the calcium given all, each (time, roi).

    ``evidence`` (roi,) is what the tilted log evidences lack for the log density of each trace.
    """

    mean: Array
    variance: Array
    calcium_mean: Array
    calcium_variance: Array
    evidence: Array


class Beliefs(NamedTuple):
    """States and activity given whole traces, and the sites they come from.

    ``probs`` and ``table``, (time, state), are posterior and log evidences of the states; ``evidence`` is the log
    density by expectation propagation, nats; the rest (time, roi).
    """

    probs: Array
    table: Array
    count_mean: Array
    count_variance: Array
    calcium_mean: Array
    calcium_variance: Array
    evidence: Array
    sites: Sites


def first_sites(model: Model, data: Data) -> Sites:
    """Return normal laws with the moments of the inputs' own, states as often as the chain has them in the long run."""
    probs = stationary(model.chain)
    params, shape = model.params, data.weight.shape
    rate = probs @ params.rates
    spread = rate + probs @ params.rates**2 - rate**2
    mean = params.spike_amplitude * rate
    variance = params.noise_variance + params.spike_amplitude**2 * spread
    return Sites(jnp.broadcast_to(mean, shape), jnp.broadcast_to(variance, shape))


def stationary(chain: Chain) -> Array:
    """Return about how often a chain is in each state, (state,): after 2^10 steps from its first frame."""
    power = chain.transition_matrix
    for _ in range(10):
        power = power @ power
    return chain.initial_probs @ power


def around(emission: CalciumNoisyEmission, params: Params, data: Data, counted: Array, sites: Sites) -> Around:
    """Run the filters of all ROIs, a block of ROIs at a time; ``counted`` (time, roi) marks samples that are scored."""
    n_frames, n_rois = data.weight.shape
    n_blocks = max(1, -(-n_frames * n_rois // _SAMPLES_AT_ONCE))
    block = -(-n_rois // n_blocks)
    n_blocks = -(-n_rois // block)

    def one(part: tuple[Params, Array, Array, Array, Sites]) -> Around:
        params, y, observed, counted, sites = part
        dyn = emission.dynamics(params)
        found = space.messages(dyn, y.astype(jnp.float64), observed, data.starts, sites)
        evidence = evidence_of_sites(found, sites, observed, counted)
        evidence = jnp.where(data.valid[:, None], evidence, 0.0).sum(axis=0)
        return Around(found.cavity_mean, found.cavity_variance, found.calcium_mean, found.calcium_variance, evidence)

    everything = (params, data.y, data.weight, counted, sites)
    if n_blocks == 1:
        return one(everything)
    # The last block is filled up with ROIs from before it, which are computed twice.
    firsts = jnp.minimum(jnp.arange(n_blocks) * block, n_rois - block)
    index = firsts[:, None] + jnp.arange(block)

    def at(i: Array) -> Around:
        time_first: Any = 1
        per_roi: Any = 0
        axes = (Params(time_first, *[per_roi] * 5), 1, 1, 1, Sites(time_first, time_first))
        return one(jax.tree.map(lambda a, axis: lax.dynamic_slice_in_dim(a, i, block, axis), everything, axes))

    def whole(stacked: Array) -> Array:
        flat = jnp.moveaxis(stacked, 0, -2).reshape(*stacked.shape[1:-1], n_blocks * block)
        return flat[..., _last_of_each(index, n_rois)]

    return jax.tree.map(whole, lax.map(at, firsts))


def _last_of_each(index: Array, n: int) -> Array:
    """Where in the flattened ``index`` each of 0 .. n - 1 stands last."""
    return jnp.zeros(n, int).at[index.ravel()].max(jnp.arange(index.size))


def _chunk_of(found: Around, data: Data, start: Array, length: int) -> Chunk:
    def cut(a: Array) -> Array:
        return lax.dynamic_slice_in_dim(a, start, length)

    weight = jnp.broadcast_to(cut(data.valid)[:, None], (length, found.mean.shape[1])).astype(jnp.float64)
    return Chunk(cut(found.mean), jnp.zeros((0, *weight.shape)), weight, cut(found.variance))


def states(
    emission: CalciumNoisyEmission, model: Model, data: Data, found: Around, chunk: int
) -> tuple[Smoothed, Array]:
    """Return posterior of the states given the cavities, and the table (time, state) it comes from."""
    n_frames = data.weight.shape[0]

    def one(_: None, start: Array) -> tuple[None, Array]:
        return None, emission.log_likelihood(model.params, _chunk_of(found, data, start, chunk))

    _, table = lax.scan(one, None, jnp.arange(0, n_frames, chunk))
    table = table.reshape(n_frames, -1)
    return smooth(model.chain, table, data.starts, data.valid), table


class Step(NamedTuple):
    """What one look at all inputs gives: sums (state, roi) for the rates, new sites, moments (time, roi) of counts."""

    occupancy: Array
    spikes: Array
    sites: Sites
    mean: Array
    variance: Array


def inputs(
    emission: CalciumNoisyEmission, params: Params, data: Data, found: Around, probs: Array, sites: Sites, chunk: int
) -> Step:
    """Return the posterior of all inputs given that of the states, ``probs`` (time, state)."""

    def add(total: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], tuple[Sites, Array, Array]]:
        def cut(a: Array) -> Array:
            return lax.dynamic_slice_in_dim(a, start, chunk)

        part = _chunk_of(found, data, start, chunk)
        one = emission.expected(params, part, cut(probs))
        new = _matching(params, part, one.mean, one.variance, jax.tree.map(cut, sites))
        return (total[0] + one.occupancy, total[1] + one.spikes), (new, one.mean, one.variance)

    zero = jnp.zeros_like(params.rates)
    n_frames, n_rois = data.weight.shape
    (occupancy, spikes), rest = lax.scan(add, (zero, zero), jnp.arange(0, n_frames, chunk))
    sites, mean, variance = jax.tree.map(lambda a: a.reshape(n_frames, n_rois), rest)
    return Step(occupancy, spikes, sites, mean, variance)


def _matching(params: Params, part: Chunk, mean: Array, variance: Array, old: Sites) -> Sites:
    """Return sites that give the inputs the moments they have for counts of that mean and variance; damped.

    With cavity N(e, V), S = V + σ² and q = c² Var[s] / S, the site's variance is σ² + c² Var[s] / (1 - q) and its mean
    (c E[s] - q e) / (1 - q). Where a count is torn between two, q exceeds 1, and the site is made as good as flat.
    """
    assert part.variance is not None
    c, noise = params.spike_amplitude, params.noise_variance
    largest = _WIDEST * (c**2 + noise)
    total = part.variance + noise
    share = jnp.minimum(c**2 * variance / total, 1.0 - total / (total + largest))
    spread = noise + c**2 * variance / (1.0 - share)
    middle = (c * mean - share * part.y) / (1.0 - share)
    precision = _DAMPING / spread + (1.0 - _DAMPING) / old.variance
    weighted = _DAMPING * middle / spread + (1.0 - _DAMPING) * old.mean / old.variance
    new = Sites(weighted / precision, 1.0 / precision)
    return jax.tree.map(lambda a, b: jnp.where(part.weight > 0, a, b), new, old)


# -- Compiled ---------------------------------------------------------------------------------------------------------


def ep_step(
    emission: CalciumNoisyEmission, model: Model, sites: Sites, data: Data, counted: Array, prior: Prior, chunk: int
) -> tuple[Model, Sites, Array, Array, Array]:
    """One pass and one M-step for chain and rates.

    Log evidence and log posterior are the old model's, as are the probabilities of the states (time, state), the last.
    """
    found = around(emission, model.params, data, counted, sites)
    smoothed, _ = states(emission, model, data, found, chunk)
    step = inputs(emission, model.params, data, found, smoothed.probs, sites, chunk)
    evidence = smoothed.log_likelihood + found.evidence.sum()
    params = emission.maximise_rates(model.params, step.occupancy, step.spikes, prior)
    new = Model(update_chain(smoothed, prior), params)
    return new, step.sites, evidence, evidence + log_prior(emission, model, prior), smoothed.probs


@partial(jax.jit, static_argnames=("emission", "chunk"))
def ep_block(
    emission: CalciumNoisyEmission,
    model: Model,
    sites: Sites,
    data: Data,
    counted: Array,
    prior: Prior,
    n_steps: Array | int,
    *,
    chunk: int,
) -> tuple[Model, Sites, Array, Array, Array]:
    """Run ``n_steps`` <= BLOCK steps; histories as in :func:`nwb_calcium_lvm.hmm.em.em_block`."""
    blank = jnp.full(BLOCK, jnp.nan, jnp.float64)
    probs = jnp.zeros((data.weight.shape[0], len(model.params.rates)))

    def body(i: Array, carry: tuple[Model, Sites, Array, Array, Array]) -> tuple[Model, Sites, Array, Array, Array]:
        model, sites, likelihoods, posteriors, _ = carry
        model, sites, likelihood, posterior, probs = ep_step(emission, model, sites, data, counted, prior, chunk)
        return model, sites, likelihoods.at[i].set(likelihood), posteriors.at[i].set(posterior), probs

    return lax.fori_loop(0, n_steps, body, (model, sites, blank, blank, probs))


@partial(jax.jit, static_argnames=("emission", "chunk"))
def believe(
    emission: CalciumNoisyEmission,
    model: Model,
    data: Data,
    counted: Array,
    passes: Array | int = PASSES,
    *,
    chunk: int,
) -> Beliefs:
    """Infer everything from traces, given the model; all frames are refined ``passes`` times."""

    def refine(_: Array, last: Beliefs) -> Beliefs:
        found = around(emission, model.params, data, counted, last.sites)
        smoothed, table = states(emission, model, data, found, chunk)
        seen = inputs(emission, model.params, data, found, smoothed.probs, last.sites, chunk)
        return Beliefs(
            smoothed.probs,
            table,
            seen.mean,
            seen.variance,
            found.calcium_mean + model.params.baseline,
            found.calcium_variance,
            smoothed.log_likelihood + found.evidence.sum(),
            seen.sites,
        )

    sites = first_sites(model, data)
    nothing, table = jnp.zeros_like(sites.mean), jnp.zeros((data.weight.shape[0], len(model.params.rates)))
    last = Beliefs(table, table, nothing, nothing, nothing, nothing, jnp.zeros(()), sites)
    return lax.fori_loop(0, passes, refine, last)


@jax.jit
def most_probable_path(model: Model, data: Data, table: Array) -> Array:
    """Return the most probable path of each trial, (time,), given the evidences (time, state) of a :class:`Beliefs`."""
    return viterbi(model.chain, table, data.starts)
