"""What the latents ask of an observation model; the files beside this one implement it.

A readout is a frozen, hashable description, so that it can be a static argument of a compiled function. It works on a
block of neurons over all frames. Symbols: ``T`` frames, ``B`` neurons of the block, ``D`` latents; ``m`` (T, D) and
``V`` (T, D, D) mean and covariance of the latents under the approximate posterior q; ``C`` (B, D) loadings, ``d`` (B,)
offsets, and ``eta = C x + d`` what a neuron sees of the latents.
"""

from typing import Any, NamedTuple, Protocol

from jax import Array

Numbers = Any  # arrays of NumPy on the host, of JAX in compiled code


class Latents(NamedTuple):
    """Mean (T, D) and covariance (T, D, D) of the latents under q."""

    mean: Numbers
    covariance: Numbers


class Weights(NamedTuple):
    """What is learned of each neuron: loadings (B, D), offset (B,), and the observation's own parameters."""

    loadings: Numbers
    offset: Numbers
    params: Any


class Block(NamedTuple):
    """Traces of some neurons.

    Attributes
    ----------
    y : (T, B) array
        Traces, any finite number where not observed.
    observed : (T, B) array of bool
        Where there is a sample.
    scored : (T, B) array of bool
        Where it has a density given its past.
    starts : (T,) array of bool
        First frames of segments.
    """

    y: Numbers
    observed: Numbers
    scored: Numbers
    starts: Numbers


class Prior(NamedTuple):
    """Weak priors, told as a few more frames of an average kind.

    Attributes
    ----------
    loading_precision : (D,) array
        1 / s_j^2 of ``C_nj ~ Normal(0, s_j^2)``.
    frames : scalar
        Number of frames at the neuron's own average that offset and noise are pulled to.
    offset, variance : (B,) array
        That average: eta, and the variance of the noise.
    floor : (B,) array
        Smallest variance allowed.
    ar_mean, ar_precision : (B, p) array
        Gaussian prior of the AR coefficients.
    """

    loading_precision: Numbers
    frames: Numbers
    offset: Numbers
    variance: Numbers
    floor: Numbers
    ar_mean: Numbers
    ar_precision: Numbers


class Look(NamedTuple):
    """What a block tells of q and of its own weights.

    Attributes
    ----------
    bound : (B,) array
        Lower bound on E_q[log p(y | x)] of each neuron, nats.
    weights : Weights
        Weights that do not lower bound plus log prior; those given, if not asked to learn.
    precision, linear : (T, D, D), (T, D) arrays
        Sites on the latents that q should move to, given the new weights.
    """

    bound: Array
    weights: Weights
    precision: Array
    linear: Array


class Readout(Protocol):
    """A bound on the expected log density of traces, and what raises it."""

    @property
    def order(self) -> int:
        """How many past frames an observation depends on."""
        ...

    @property
    def monotone(self) -> bool:
        """Whether improved weights are sure not to lower the bound; else steps may have to be shortened."""
        ...

    def look(self, weights: Weights, block: Block, latents: Latents, prior: Prior, *, learn: bool) -> Look:
        """Evaluate the bound, improve the weights if asked to, and return the sites that raise the bound most."""
        ...

    def log_prior(self, weights: Weights, prior: Prior) -> Array:
        """Log prior density of the weights of each neuron, (B,), up to a constant."""
        ...
