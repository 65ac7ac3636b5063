"""When a pendulum was struck, by exact inference on a grid of its states: the best that can be known from its spikes.

The observer knows the equations of motion, each neuron's tuning, how often and how hard it is struck, and sees the
spikes themselves. Forward and backward over time; a state that a step leads to lies between four points of the grid.
"""

from functools import cache

import numpy as np
import scipy.sparse as sp

from nwb_calcium_lvm.simulate._dynamics import _pendulum, _runge_kutta

_ANGLES, _VELOCITIES, _FASTEST = 120, 201, 12.0
_KICKS_A_FRAME, _KICK, _STEP = 0.02, 4.0, 0.1  # as kicked_pendulum has them


@cache
def _grid():
    """States (K, 2), the matrix of a step without a kick, and that of a kick, each (K, K), from row to column."""
    angle = np.arange(_ANGLES) / _ANGLES * 2 * np.pi - np.pi
    velocity = np.linspace(-_FASTEST, _FASTEST, _VELOCITIES)
    states = np.stack(np.meshgrid(angle, velocity, indexing="ij"), axis=-1).reshape(-1, 2)
    after = _runge_kutta(_pendulum, states.copy(), _STEP)
    a = (after[:, 0] + np.pi) / (2 * np.pi) * _ANGLES % _ANGLES
    v = np.clip((after[:, 1] + _FASTEST) / (velocity[1] - velocity[0]), 0, _VELOCITIES - 1.0001)
    low_a, low_v = np.floor(a).astype(int), np.floor(v).astype(int)
    share_a, share_v, rows = a - low_a, v - low_v, np.arange(len(states))
    step = sp.csr_matrix((len(states), len(states)))
    for up_a, weight_a in ((0, 1 - share_a), (1, share_a)):
        for up_v, weight_v in ((0, 1 - share_v), (1, share_v)):
            column = (low_a + up_a) % _ANGLES * _VELOCITIES + low_v + up_v
            step = step + sp.csr_matrix((weight_a * weight_v, (rows, column)), shape=step.shape)
    change = np.abs(velocity[:, None] - velocity[None])
    kick = ((change >= 0.5 * _KICK) & (change <= _KICK)).astype(float)
    kick /= kick.sum(axis=1, keepdims=True)
    return states, step.tocsr(), sp.kron(sp.eye(_ANGLES), sp.csr_matrix(kick)).tocsr()


def probability_of_a_kick(truth, trials):
    """Posterior probability (trial, time) that the pendulum was struck in a frame, from the spikes of a trial."""
    states, step, kick = _grid()
    mean, spread = truth.latents.mean(axis=(0, 1)), truth.latents.std(axis=(0, 1))
    design = np.concatenate([(truth.latents - mean) / spread, np.ones((*truth.latents.shape[:2], 1))], axis=-1)
    flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
    tuning = np.linalg.lstsq(flat(design), flat(np.log(truth.rates)), rcond=None)[0]  # exact: rates are made so
    seen = np.column_stack([np.sin(states[:, 0]), np.cos(states[:, 0]), states[:, 1]])
    log_rates = np.column_stack([(seen - mean) / spread, np.ones(len(seen))]) @ tuning
    spikes = truth.spikes[trials]
    n_trials, n_frames, _ = spikes.shape
    density = [log_rates @ spikes[:, t].T - np.exp(log_rates).sum(axis=1)[:, None] for t in range(n_frames)]
    density = [np.exp(d - d.max(axis=0)) for d in density]
    start = np.exp(-0.5 * ((states / [1.5, 1.0]) ** 2).sum(axis=1))
    now, before = np.tile(start[:, None] / start.sum(), (1, n_trials)), []
    for d in density:
        before.append(now)
        now = (step.T @ ((1 - _KICKS_A_FRAME) * now + _KICKS_A_FRAME * (kick.T @ now))) * d
        now = now / now.sum(axis=0)
    found, later = np.empty((n_trials, n_frames)), np.ones_like(now)
    for t in range(n_frames)[::-1]:
        ahead = step @ (density[t] * later)
        struck = _KICKS_A_FRAME * ((kick.T @ before[t]) * ahead).sum(axis=0)
        found[:, t] = struck / (struck + (1 - _KICKS_A_FRAME) * (before[t] * ahead).sum(axis=0))
        later = (1 - _KICKS_A_FRAME) * ahead + _KICKS_A_FRAME * (kick @ ahead)
        later = later / later.sum(axis=0)
    return found
