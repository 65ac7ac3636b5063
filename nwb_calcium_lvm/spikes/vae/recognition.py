"""Recognition networks: from traces to a posterior over spike counts, frame by frame or along the sequence (Flax NNX).

All give ``log q(counts | trace)``, samples of it, and the marginal probabilities of 0..R spikes in each frame.
Shapes: traces (unit, time, channel), conditions (unit, condition), counts (unit, time, source).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nwb_calcium_lvm.spikes.network import Block, Filters

N_VIEWS = 2  # ways in which a network sees a trace: in dF/F, and over its noise
_POOLED = 48  # numbers that sum up a trace
_FEATURES = 12  # of a frame, which the sequence of counts is drawn from
_PUBLISHED_FACTORISED = (30, 25, 25, 20, 15), (31, 21, 21, 13, 11)  # filters and their widths, frames
_PUBLISHED_CORRELATED = (20, 15, 15, 15), (31, 21, 21, 11)


@dataclass(frozen=True)
class RecognitionConfig:
    """Shape of a recognition network.

    Parameters
    ----------
    max_count : int
        Most spikes of one frame that are told apart, R.
    correlated : bool
        Whether counts depend on those of the frames before.
    stride : int
        Frames taken and given at once.
    channels : int
        Width of the hidden layers.
    analysis_width, synthesis_width : int
        Frames that a filter sees, and that one output reaches; multiples of ``stride``.
    dilations : tuple of int
        Reach of each residual block's taps, in strides.
    units : int
        Of the recurrent layer that makes counts depend on earlier ones.
    published : bool
        The convolutional and recurrent networks of the paper in place of ours.
    """

    max_count: int = 7
    correlated: bool = True
    stride: int = 4
    channels: int = 64
    analysis_width: int = 64
    synthesis_width: int = 16
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)
    units: int = 32
    published: bool = False


class _Trunk(nnx.Module):
    """Strided analysis, dilated residual blocks, overlap-add synthesis: features of every frame."""

    def __init__(self, config: RecognitionConfig, n_in: int, n_out: int, n_conditions: int, rngs: nnx.Rngs):
        s, c = config.stride, config.channels
        taps_in, taps_out = config.analysis_width // s, config.synthesis_width // s
        self.analysis = Filters(taps_in, s * n_in, c, taps_in - 1 - taps_in // 2, rngs)
        self.blocks = nnx.List([Block(c, d, False, True, rngs, n_conditions) for d in config.dilations])
        self.synthesis = Filters(taps_out, c, s * n_out, taps_out - 1 - (taps_out - 1) // 2, rngs)
        self.stride, self.n_out = s, n_out

    def __call__(self, views: jax.Array, conditions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return features (unit, time, feature) and the hidden layer (unit, time / stride, channel)."""
        n_units, n_frames, n_in = views.shape
        h = nnx.relu(self.analysis(views.reshape(n_units, n_frames // self.stride, self.stride * n_in)))
        for block in self.blocks:
            h = block(h, conditions)
        return self.synthesis(h).reshape(n_units, n_frames, self.n_out), h


class _PublishedConvolutions(nnx.Module):
    """The convolutional layers of the paper, with leaky rectifiers."""

    def __init__(self, n_in: int, filters: tuple[int, ...], widths: tuple[int, ...], n_out: int, rngs: nnx.Rngs):
        sizes = [n_in, *filters]
        self.layers = nnx.List(
            [
                nnx.Conv(a, b, (w,), padding="SAME", rngs=rngs)
                for a, b, w in zip(sizes[:-1], sizes[1:], widths, strict=True)
            ]
        )
        self.out = nnx.Conv(sizes[-1], n_out, (11,), padding="SAME", rngs=rngs)

    def __call__(self, views: jax.Array, conditions: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = views
        for layer in self.layers:
            h = nnx.leaky_relu(layer(h), 0.2)
        return self.out(h), h


class _Sequence(nnx.Module):
    """Counts that depend on the counts before: a gated recurrent layer over features and the last counts."""

    def __init__(self, n_features: int, n_sources: int, n_out: int, units: int, backward: bool, rngs: nnx.Rngs):
        self.back = nnx.GRUCell(n_features, units, rngs=rngs) if backward else None
        n_in = n_features + n_sources + (units if backward else 0)
        self.cell = nnx.GRUCell(n_in, units, rngs=rngs)
        self.out = nnx.Linear(units, n_out, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.units = units

    def enriched(self, features: jax.Array) -> jax.Array:
        """Return features together with what the backward layer has seen after each frame."""
        if self.back is None:
            return features
        graph, state = nnx.split(self.back)

        def advance(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            h, _ = nnx.merge(graph, state)(h, x)
            return h, h

        start = jnp.zeros((features.shape[0], self.units))
        _, seen = jax.lax.scan(advance, start, features.swapaxes(0, 1), reverse=True)
        return jnp.concatenate([features, seen.swapaxes(0, 1)], axis=-1)

    def logits(self, features: jax.Array, counts: jax.Array) -> jax.Array:
        """Return what the counts before add to the logits of each frame, (unit, time, out)."""
        before = jnp.pad(counts, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        inputs = jnp.concatenate([self.enriched(features), before], axis=-1)
        graph, state = nnx.split(self.cell)

        def advance(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            h, _ = nnx.merge(graph, state)(h, x)
            return h, h

        start = jnp.zeros((features.shape[0], self.units))
        _, hidden = jax.lax.scan(advance, start, inputs.swapaxes(0, 1))
        return self.out(hidden.swapaxes(0, 1))

    def sample(
        self, features: jax.Array, base: jax.Array, key: jax.Array, n_classes: int, start: Any = None
    ) -> tuple[jax.Array, Any]:
        """Draw counts one frame after the other; ``start`` goes on from where an earlier call stopped."""
        enriched = self.enriched(features)
        n_units, n_frames, n_out = base.shape
        n_sources = n_out // n_classes
        graph, state = nnx.split((self.cell, self.out))

        def advance(carry: Any, now: Any) -> tuple[Any, jax.Array]:
            h, last = carry
            x, logits, k = now
            cell, out = nnx.merge(graph, state)
            h, _ = cell(h, jnp.concatenate([x, last], axis=-1))
            total = (logits + out(h)).reshape(n_units, n_sources, n_classes)
            drawn = jax.random.categorical(k, total).astype(base.dtype)
            return (h, drawn), drawn

        if start is None:
            start = (jnp.zeros((n_units, self.units)), jnp.zeros((n_units, n_sources), base.dtype))
        over = (enriched.swapaxes(0, 1), base.swapaxes(0, 1), jax.random.split(key, n_frames))
        end, drawn = jax.lax.scan(advance, start, over)
        return drawn.swapaxes(0, 1), end


class Seen(NamedTuple):
    """What a network says of traces.

    Attributes
    ----------
    logits : (unit, time, source, count) array
        Of the marginal posterior of each frame's counts, before normalisation.
    features : (unit, time, feature) array
        What the sequence of counts is drawn from.
    pooled : (unit, 2 · trait) array
        Mean, and log of the standard deviation, of each trait of the unit, in units of its prior.
    """

    logits: jax.Array
    features: jax.Array
    pooled: jax.Array


class Recognition(nnx.Module):
    """A posterior over spike counts, and over the parameters of the cell, from one pass over its trace."""

    def __init__(self, config: RecognitionConfig, n_channels: int, n_traits: int, rngs: nnx.Rngs):
        classes = config.max_count + 1
        n_out = n_channels * classes
        n_in, n_conditions = N_VIEWS * n_channels, 3 + 2 * n_traits
        if config.published:
            filters, widths = _PUBLISHED_CORRELATED if config.correlated else _PUBLISHED_FACTORISED
            self.trunk = _PublishedConvolutions(n_in, filters, widths, n_out + _FEATURES, rngs)
            width = filters[-1]
        else:
            self.trunk = _Trunk(config, n_in, n_out + _FEATURES, n_conditions, rngs)
            width = config.channels
        # A spike in a frame is rare, several are rarer.
        self.offset = nnx.Param(jnp.tile(-3.0 * jnp.arange(classes, dtype=jnp.float32), n_channels))
        self.sequence = (
            _Sequence(_FEATURES + n_in, n_channels, n_out, config.units, config.published, rngs)
            if config.correlated
            else None
        )
        self.pool = nnx.Linear(width, _POOLED, rngs=rngs)
        self.mix = nnx.Linear(_POOLED + n_conditions, _POOLED, rngs=rngs)
        self.traits = nnx.Linear(_POOLED, 2 * n_traits, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.n_out, self.classes, self.n_channels = n_out, classes, n_channels

    def __call__(self, views: jax.Array, conditions: jax.Array) -> Seen:
        """Look at traces, (unit, time, view · channel)."""
        out, hidden = self.trunk(views, conditions)
        logits = out[..., : self.n_out] + self.offset[...]
        features = jnp.concatenate([out[..., self.n_out :], views], axis=-1)
        pooled = jnp.concatenate([nnx.relu(self.pool(hidden)).mean(axis=1), conditions], axis=-1)
        shape = (*views.shape[:2], self.n_channels, self.classes)
        return Seen(logits.reshape(shape), features, self.traits(nnx.relu(self.mix(pooled))))

    def log_prob(self, seen: Seen, counts: jax.Array) -> jax.Array:
        """Return log q(counts | trace) of each frame, (unit, time)."""
        logits = seen.logits
        if self.sequence is not None:
            logits = logits + self.sequence.logits(seen.features, counts).reshape(logits.shape)
        return log_prob_of(logits, counts).sum(axis=-1)

    def sample(self, seen: Seen, key: jax.Array, start: Any = None) -> tuple[jax.Array, Any]:
        """Draw counts, (unit, time, source), and return with them where the sequence has come to."""
        if self.sequence is None:
            return jax.random.categorical(key, seen.logits).astype(seen.logits.dtype), None
        base = seen.logits.reshape(*seen.logits.shape[:2], -1)
        return self.sequence.sample(seen.features, base, key, self.classes, start)


def log_prob_of(logits: jax.Array, counts: jax.Array) -> jax.Array:
    """Return log-probabilities of counts under independent categories, (..., source)."""
    chosen = jnp.clip(counts, 0, logits.shape[-1] - 1).astype(int)[..., None]
    return jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=-1)[..., 0]


def moments(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance of counts under independent categories, (..., source)."""
    share = jax.nn.softmax(logits)
    counts = jnp.arange(logits.shape[-1], dtype=logits.dtype)
    mean = (share * counts).sum(-1)
    return mean, (share * counts**2).sum(-1) - mean**2


def reach(config: RecognitionConfig) -> int:
    """Return how many frames before and after a frame its marginal posterior depends on, rounded up to strides."""
    if config.published:
        widths = (_PUBLISHED_CORRELATED if config.correlated else _PUBLISHED_FACTORISED)[1]
        return sum(w // 2 for w in widths) + 5
    s = config.stride
    strides = config.analysis_width // s + config.synthesis_width // s + sum(config.dilations)
    return (strides + 1) * s
