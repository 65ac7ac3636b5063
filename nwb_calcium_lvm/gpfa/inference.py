"""Latents of a recording for fixed weights."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.gpfa.fitting import PATIENCE, ROUNDING, Settings, point_of, problem_for
from nwb_calcium_lvm.gpfa.frames import Sites
from nwb_calcium_lvm.gpfa.plans import Plan
from nwb_calcium_lvm.gpfa.readouts import Weights
from nwb_calcium_lvm.gpfa.vem import Outcome, attempt, blend
from nwb_calcium_lvm.recording import Recording

_MOST_STEPS = 100  # on the sites, and the gain in nats per sample at which they end
_PRECISION = 1e-9


def infer(
    plan: Plan, recording: Recording, settings: Settings, weights: Weights, log_timescale: NDArray[np.floating]
) -> Outcome:
    """Find q: Newton-like steps on the sites, shortened until the bound does not fall.

    They begin at sites of rough rates, or at none where the bound is higher there. Call it under x64.
    """
    problem = problem_for(plan, recording, replace(settings, n_latents=len(log_timescale)), log_timescale)
    point = point_of(problem, recording, weights, log_timescale)

    def look(sites: Sites) -> Outcome:
        return attempt(
            problem.machine,
            plan.readout,
            point.weights,
            jnp.asarray(log_timescale),
            sites,
            problem.data,
            problem.prior,
            problem.counted,
            learn=False,
        )

    starts = [point.sites, jax.tree.map(jnp.zeros_like, point.sites)]
    outcomes = [look(sites) for sites in starts]
    bounds = [float(outcome.bound) for outcome in outcomes]
    best = int(np.argmax(np.where(np.isfinite(bounds), bounds, -np.inf)))
    sites, outcome, fraction = starts[best], outcomes[best], 1.0
    for _ in range(_MOST_STEPS):
        for _ in range(PATIENCE):
            proposal = blend(sites, outcome.seen.target, jnp.asarray(fraction))
            new = look(proposal)
            if float(new.bound) >= float(outcome.bound) - ROUNDING * abs(float(outcome.bound)):
                break
            fraction *= 0.5
        else:
            return outcome
        gain = float(new.bound) - float(outcome.bound)
        sites, outcome, fraction = proposal, new, min(1.0, 1.5 * fraction)
        if gain < _PRECISION * problem.n_samples:
            break
    return outcome
