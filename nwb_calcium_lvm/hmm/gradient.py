"""Gradient ascent on the same objective as EM: the papers' way, kept for comparison and for models without EM."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from nwb_calcium_lvm.hmm.data import Data, chunk_at
from nwb_calcium_lvm.hmm.em import BLOCK, Model, log_prior
from nwb_calcium_lvm.hmm.emissions.protocol import Emission, Prior
from nwb_calcium_lvm.hmm.inference import Chain, forward

LEARNING_RATE = 1e-2


def unconstrain(emission: Emission, model: Model) -> tuple[Chain, Any]:
    """Map a model to unbounded values: logits of the chain, and the emission's own."""
    chain = jax.tree.map(lambda probs: jnp.log(jnp.maximum(probs, 1e-12)), model.chain)
    return chain, emission.unconstrain(model.params)


def constrain(emission: Emission, free: tuple[Chain, Any]) -> Model:
    """Inverse of :func:`unconstrain`; probabilities come out normalised."""
    chain = jax.tree.map(lambda logits: jax.nn.softmax(logits, axis=-1), free[0])
    return Model(chain, emission.constrain(free[1]))


def objective(emission: Emission, free: Any, data: Data, prior: Prior, chunk: int) -> tuple[Array, Array]:
    """Minus the log posterior per scored sample, and the log-likelihood.

    Each chunk is computed again on the way back (``jax.checkpoint``), so that memory stays that of one chunk.
    """
    model = constrain(emission, free)

    @jax.checkpoint
    def table_of(params: Any, start: Array) -> Array:
        return emission.log_likelihood(params, chunk_at(data, start, chunk))

    def one(_: None, start: Array) -> tuple[None, Array]:
        return None, table_of(model.params, start)

    n_frames = data.weight.shape[0]
    _, table = lax.scan(one, None, jnp.arange(0, n_frames, chunk))
    evidence = forward(model.chain, table.reshape(n_frames, -1), data.starts).log_evidence
    log_likelihood = jnp.where(data.valid, evidence, 0.0).sum()
    posterior = log_likelihood + log_prior(emission, model, prior)
    return -posterior / data.weight.sum(), log_likelihood


@partial(jax.jit, static_argnames=("emission", "chunk"))
def gradient_block(
    emission: Emission, free: Any, state: Any, data: Data, prior: Prior, n_steps: Array, *, chunk: int
) -> tuple[Any, Any, Array, Array]:
    """Run ``n_steps`` <= BLOCK steps of Adam; histories as in :func:`nwb_calcium_lvm.hmm.em.em_block`."""
    blank = jnp.full(BLOCK, jnp.nan, jnp.float64)
    n_samples = data.weight.sum()

    def body(i: Array, carry: tuple[Any, Any, Array, Array]) -> tuple[Any, Any, Array, Array]:
        free, state, likelihoods, posteriors = carry
        loss_of = partial(objective, emission, data=data, prior=prior, chunk=chunk)
        (loss, likelihood), slope = jax.value_and_grad(loss_of, has_aux=True)(free)
        updates, state = optax.adam(LEARNING_RATE).update(slope, state, free)
        free = optax.apply_updates(free, updates)
        return free, state, likelihoods.at[i].set(likelihood), posteriors.at[i].set(-loss * n_samples)

    return lax.fori_loop(0, n_steps, body, (free, state, blank, blank))
