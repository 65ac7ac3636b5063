"""CASCADE's network, trained here: three convolutions over 64 frames at 30 Hz, noise matched, for comparison.

Windows of 64 frames, convolutions of 31, 19 and 5 frames with 30, 40 and 50 filters, two poolings, 10 dense units;
squared error to spikes smoothed by 50 ms; Adagrad. Evaluated at all frames at once (poolings by dilation), which gives
the same numbers as window by window. Its published training is of hours; here it gets the minutes the others get.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.ndimage import gaussian_filter1d

from nwb_calcium_lvm.preprocessing import noise_level
from nwb_calcium_lvm.spikes.base import FineRates, SpikeEstimator
from nwb_calcium_lvm.spikes.clocks import average_over, count_over, grid_edges
from nwb_calcium_lvm.spikes.traces import noise_to_reach

RATE, WINDOW, SD = 30.0, 64, 0.05
LENGTH = 256  # frames in an example
OPTIMISER = optax.adagrad(0.05)


def first_weights(seed):
    rng = np.random.default_rng(seed)

    def dense(*shape):
        fan_in, fan_out = np.prod(shape[:-1]), np.prod(shape[:-2]) * shape[-1]
        limit = np.sqrt(6.0 / (fan_in + fan_out))
        return {"w": jnp.asarray(rng.uniform(-limit, limit, shape), jnp.float32), "b": jnp.zeros(shape[-1])}

    return [dense(31, 1, 30), dense(19, 30, 40), dense(5, 40, 50), dense(1, 50, 10), dense(2, 10, 1)]


def network(weights, traces):
    """Spikes per frame at the frame 32 after each window's first, for traces (example, time)."""
    c1, c2, c3, dense, last = weights

    def conv(h, layer, dilation=1):
        out = jax.lax.conv_general_dilated(
            h, layer["w"], (1,), "VALID", rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
        )
        return out + layer["b"]

    h = jax.nn.relu(conv(traces[..., None], c1))
    h = jax.nn.relu(conv(h, c2))
    h = jnp.maximum(h[:, :-1], h[:, 1:])
    h = jax.nn.relu(conv(h, c3, 2))
    h = jnp.maximum(h[:, :-2], h[:, 2:])
    h = jax.nn.relu(conv(h, dense))
    return conv(h, last, 4)[..., 0]


@jax.jit
def step(weights, state, traces, targets, known):
    def loss(weights):
        return jnp.sum(known * (network(weights, traces) - targets) ** 2) / jnp.maximum(known.sum(), 1.0)

    update, state = OPTIMISER.update(jax.grad(loss)(weights), state, weights)
    return optax.apply_updates(weights, update), state


def segments_of(recording):
    for a, b in recording.segments.bounds:
        t = recording.timestamps[a:b]
        n = int((t[-1] - t[0]) * RATE) + 1
        grid = grid_edges(t[0], n, RATE)
        yield float(t[0]), grid, average_over(recording.dff[a:b, 0].astype(float), t, grid)


class Cascade(SpikeEstimator):
    """CASCADE's architecture in the interface of the package's estimators."""

    def __init__(self, seed=0, steps=5000, batch_size=32, level=1.0):
        self.seed = seed
        self.steps = steps
        self.batch_size = batch_size
        self.level = level

    sampling_rate = None

    def fit(self, X, y=None):
        """Train on neurons at most as noisy as the level, with noise added up to it."""
        rng = np.random.default_rng(self.seed)
        parts = []
        for neuron in X:
            for _, grid, trace in segments_of(neuron.recording):
                counts = count_over(neuron.spikes, grid)
                target = gaussian_filter1d(counts, SD * RATE, mode="constant")
                nu = float(noise_level(trace[:, None], RATE)[0])
                if nu < self.level + 0.5 and len(trace) > WINDOW:
                    parts.append((trace, target, noise_to_reach(self.level, nu, RATE)))
        share = np.array([len(t) for t, _, _ in parts], float)
        share /= share.sum()
        weights = first_weights(self.seed)
        state = OPTIMISER.init(weights)
        for _ in range(self.steps):
            weights, state = step(weights, state, *self._draw(parts, share, rng))
        self.weights_ = weights
        return self

    def save(self, path):
        np.savez(path, *[np.asarray(a) for a in jax.tree.leaves(self.weights_)])
        return path

    def load(self, path):
        with np.load(path) as found:
            leaves = [jnp.asarray(found[name]) for name in found.files]
        self.weights_ = jax.tree.unflatten(jax.tree.structure(first_weights(0)), leaves)
        return self

    def _draw(self, parts, share, rng):
        n = LENGTH - WINDOW + 1
        traces = np.zeros((self.batch_size, LENGTH), np.float32)
        targets, known = np.zeros((2, self.batch_size, n), np.float32)
        for row, i in enumerate(rng.choice(len(parts), self.batch_size, p=share)):
            trace, target, noise = parts[i]
            length = min(LENGTH, len(trace))
            first = rng.integers(len(trace) - length + 1)
            m = length - WINDOW + 1
            traces[row, :length] = trace[first : first + length] + noise * rng.normal(size=length)
            targets[row, :m] = target[first + WINDOW // 2 : first + WINDOW // 2 + m]
            known[row, :m] = 1.0
        return traces, targets, known

    def _fine_rates(self, recording):
        out = []
        for start, _, trace in segments_of(recording):
            padded = np.pad(trace, (WINDOW // 2, WINDOW - WINDOW // 2 - 1), mode="edge")
            rate = np.asarray(_run(self.weights_, jnp.asarray(padded[None], jnp.float32)))[0] * RATE
            out.append(FineRates(start, RATE, np.maximum(rate, 0.0)[:, None]))
        return out

    def _rates(self, recording):
        raise NotImplementedError("only scored, on its own clock")


_run = jax.jit(network)
