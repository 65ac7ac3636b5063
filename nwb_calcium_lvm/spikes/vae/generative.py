"""From spike counts to fluorescence: the generative models that a recognition network inverts.

A model is a JAX function of counts, parameters and a step, and a prior over the parameters; the noise and the baseline
around it are the same for all. Speiser et al. 2017 (DeepSpike), with time constants in place of factors per frame so
that one set of parameters serves every frame rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.indicators import Indicator

Params = Mapping[str, jax.Array]
NOISE = "noise"
BASELINE = "baseline"
_STEPS_OF_RESPONSE = 96
_KNOWN_SPREAD = 0.35  # sd of the log of a parameter whose indicator is known


@dataclass(frozen=True)
class LogNormal:
    """Prior of a positive parameter.

    Parameters
    ----------
    median : float
    spread : float
        Standard deviation of its logarithm.
    """

    median: float
    spread: float


@dataclass(frozen=True)
class GenerativeModel:
    """A way from spikes to fluorescence.

    Parameters
    ----------
    name : str
    trace : callable
        ``trace(counts, params, step)`` for one unit: counts (time, source), a dict of scalars, and the time between
        frames in s; returns noiseless fluorescence above the baseline, (time, channel), in JAX. The first frame follows
        a silence.
    parameters : mapping of str to LogNormal
        Prior of each parameter that ``trace`` reads. ``"decay"``, ``"rise"`` (s) and ``"amplitude"`` (dF/F) take the
        values of the indicator where a recording says it.
    n_channels : int, default 1
        Traces that belong to one unit, and sources of spikes in it: columns of X come in groups of so many.
    """

    name: str
    trace: Callable[[jax.Array, Params, Any], jax.Array]
    parameters: Mapping[str, LogNormal] = field(hash=False)
    n_channels: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(self.parameters)

    def of_indicator(self, indicator: Indicator | None) -> GenerativeModel:
        """Return the model with the prior of an indicator; itself where none is known."""
        if indicator is None:
            return self
        known = {
            "decay": indicator.decay_time,
            "rise": max(indicator.rise_time, 0.01),
            "amplitude": indicator.amplitude,
        }
        told = {k: LogNormal(v, _KNOWN_SPREAD) for k, v in known.items() if k in self.parameters}
        return replace(self, parameters={**self.parameters, **told})

    def medians(self) -> jax.Array:
        """Return the logarithms of the prior medians, in the order of ``names``."""
        return jnp.log(jnp.array([p.median for p in self.parameters.values()]))

    def spreads(self) -> jax.Array:
        """Return the standard deviations of the logarithms."""
        return jnp.array([p.spread for p in self.parameters.values()])

    def named(self, log_values: jax.Array) -> dict[str, jax.Array]:
        """Return parameters by name from their logarithms, (..., parameter)."""
        return {name: jnp.exp(log_values[..., i]) for i, name in enumerate(self.parameters)}


def decaying(counts: jax.Array, decay: Any, step: Any) -> jax.Array:
    """Return calcium that each spike raises by 1 and that decays with a time constant in s, (time, source)."""
    keep = jnp.exp(-step / decay)

    def advance(calcium: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        calcium = keep * calcium + count
        return calcium, calcium

    return jax.lax.scan(advance, jnp.zeros_like(counts[0], dtype=jnp.result_type(float)), counts)[1]


def rising(counts: jax.Array, decay: Any, rise: Any, step: Any) -> jax.Array:
    """Return calcium that rises with one time constant and decays with another, one spike peaking at about 1."""
    fall, climb = jnp.exp(-step / decay), jnp.exp(-step / rise)
    # Peak of the difference of two exponentials, in steps; a rise as slow as the decay would divide by 0.
    gap = jnp.maximum(jnp.log(fall) - jnp.log(climb), 1e-3)
    at = jnp.log(jnp.maximum(jnp.log(climb) / jnp.log(fall), 1.0 + 1e-6)) / gap
    peak = jnp.maximum(fall ** (at + 1) - climb ** (at + 1), 1e-6)

    def advance(state: tuple[jax.Array, jax.Array], count: jax.Array) -> tuple[Any, jax.Array]:
        slow, fast = fall * (state[0] + count), climb * (state[1] + count)
        return (slow, fast), (slow - fast) / peak

    nothing = jnp.zeros_like(counts[0], dtype=jnp.result_type(float))
    return jax.lax.scan(advance, (nothing, nothing), counts)[1]


def _linear(counts: jax.Array, p: Params, step: Any) -> jax.Array:
    return p["amplitude"] * rising(counts, p["decay"], p["rise"], step)


def _scdf(counts: jax.Array, p: Params, step: Any) -> jax.Array:
    return p["amplitude"] * _binding(_scdf_step, counts, p, step)


def _ml_phys(counts: jax.Array, p: Params, step: Any) -> jax.Array:
    return p["amplitude"] * _binding(_ml_phys_step, counts, p, step)


def _scdf_step(calcium: jax.Array, bound: jax.Array, p: Params, step: Any) -> jax.Array:
    """One step of dye that calcium fills (its share ``bound`` at most 1) and that empties by itself."""
    bound = jnp.minimum(bound, 1.0)
    into = step / p["rise"] * p["affinity"] * calcium ** p["exponent"]
    return (1.0 - jnp.exp(-into)) * (1.0 - bound) + jnp.exp(-step / p["unbinding"]) * bound


def _ml_phys_step(calcium: jax.Array, bound: jax.Array, p: Params, step: Any) -> jax.Array:
    """One step of an indicator that follows a power of calcium, with saturation."""
    rest = p["rest"]
    drive = (rest + calcium) ** p["exponent"] - rest ** p["exponent"]
    ceiling = drive / (1.0 + p["saturation"] * drive)
    # The exact solution over a step of dD/dt = (drive - (1 + γ drive) D) / rise, which no step can make unstable.
    return ceiling + (bound - ceiling) * jnp.exp(-step / p["rise"] * (1.0 + p["saturation"] * drive))


def _binding(law: Callable[..., jax.Array], counts: jax.Array, p: Params, step: Any) -> jax.Array:
    """Return the bound indicator over the peak that one spike brings, (time, source)."""

    def run(spikes: jax.Array, dt: Any) -> jax.Array:
        keep = jnp.exp(-dt / p["decay"])

        def advance(state: tuple[jax.Array, jax.Array], count: jax.Array) -> tuple[Any, jax.Array]:
            calcium = keep * state[0] + count
            bound = law(calcium, state[1], p, dt)
            return (calcium, bound), bound

        nothing = jnp.zeros_like(spikes[0], dtype=jnp.result_type(float))
        return jax.lax.scan(advance, (nothing, nothing), spikes)[1]

    one = jnp.zeros((_STEPS_OF_RESPONSE, 1)).at[0].set(1.0)
    peak = run(one, 4.0 * p["rise"] / _STEPS_OF_RESPONSE).max()
    return run(counts, step) / jnp.maximum(peak, 1e-6)


LINEAR = GenerativeModel(
    "linear",
    _linear,
    {"amplitude": LogNormal(0.2, 0.7), "decay": LogNormal(0.6, 0.6), "rise": LogNormal(0.05, 0.7)},
)
SCDF = GenerativeModel(
    "scdf",
    _scdf,
    {
        "amplitude": LogNormal(0.2, 0.7),
        "decay": LogNormal(0.4, 0.6),
        "rise": LogNormal(0.1, 0.6),
        "affinity": LogNormal(0.1, 0.6),
        "exponent": LogNormal(1.4, 0.25),
        "unbinding": LogNormal(0.2, 0.5),
    },
)
ML_PHYS = GenerativeModel(
    "ml_phys",
    _ml_phys,
    {
        "amplitude": LogNormal(0.2, 0.7),
        "decay": LogNormal(0.6, 0.6),
        "rise": LogNormal(0.06, 0.6),
        "rest": LogNormal(0.7, 0.5),
        "exponent": LogNormal(1.6, 0.3),
        "saturation": LogNormal(0.03, 1.0),
    },
)
MODELS = {m.name: m for m in (LINEAR, SCDF, ML_PHYS)}


def model_of(generative: str | GenerativeModel) -> GenerativeModel:
    """Return the generative model of that name, or the model itself."""
    if isinstance(generative, GenerativeModel):
        return generative
    if not isinstance(generative, str) or generative not in MODELS:
        raise DataError(
            f"generative={generative!r} is not known. Expected one of {', '.join(MODELS)}, or a GenerativeModel."
        )
    return MODELS[generative]


def fluorescence(
    model: GenerativeModel,
    counts: jax.Array,
    log_values: jax.Array,
    step: Any,
    substeps: int = 1,
    key: jax.Array | None = None,
) -> jax.Array:
    """Return the noiseless traces of units, (unit, time, channel), above their baselines.

    Parameters
    ----------
    model : GenerativeModel
    counts : (unit, time, source) array
    log_values : (unit, parameter) array
    step : float or (unit,) array
        Time between frames, s.
    substeps : int
        Parts of a frame in which spikes may fall; a frame is the mean over its parts.
    key : PRNG key
        Places each frame's spikes in its parts, where there are several.
    """
    if substeps > 1 and key is not None:
        counts = spread_within(key, counts, substeps)
        return averaged(model, counts, log_values, step, substeps)
    return averaged(model, counts, log_values, step, 1)


def averaged(model: GenerativeModel, fine: jax.Array, log_values: jax.Array, step: Any, substeps: int) -> jax.Array:
    """Return noiseless traces of frames that are means over ``substeps`` parts, spikes given by part."""
    steps = jnp.broadcast_to(step, (len(fine),)) / substeps
    traces = jax.vmap(lambda c, v, s: model.trace(c, model.named(v), s))(fine, log_values, steps)
    return traces.reshape(len(fine), -1, substeps, traces.shape[-1]).mean(axis=2)


def spread_within(key: jax.Array, counts: jax.Array, substeps: int) -> jax.Array:
    """Place the spikes of each frame in its parts at random, (unit, time · substeps, source)."""
    n_units, n_frames, n_sources = counts.shape
    left, parts = counts, []
    for i, part in enumerate(jax.random.split(key, substeps)[:-1]):
        drawn = jax.random.binomial(part, left, 1.0 / (substeps - i))
        parts.append(drawn)
        left = left - drawn
    placed = jnp.stack([*parts, left], axis=2)
    return placed.reshape(n_units, n_frames * substeps, n_sources)
