"""How fast spikes are inferred: the shipped networks, deconvolution, and CASCADE's five networks window by window.

    taskset -c 0 python benchmarks/spike_speed.py           two or three minutes on one core; --quick for few neurons

1,000 neurons of 9,000 frames at 30 Hz, white noise with transients. Ours includes everything from dF/F to rates on the
recording's clock: checks, scaling, resampling both ways, three networks. CASCADE itself needs TensorFlow and is not run
here; in its place stands the same arithmetic, its network over windows of 64 frames, one for each frame, five times,
compiled by XLA like ours, without its own resampling and without the overhead of Keras. It is measured on fewer
neurons, since every frame costs the same. Figures are of processor time, after compilation, of a process held to one
core.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from _cascade import WINDOW, first_weights, network
from _common import parser, table, write

from nwb_calcium_lvm import OASISSpikeEstimator, Recording, S2SSpikeEstimator

NEURONS, FRAMES, RATE = 1000, 9000, 30.0
MEMBERS = 5
BATCH = 1024  # windows at a time


def windowed(weights, windows):
    """CASCADE's network as its authors evaluate it, for windows (example, 64): every window anew."""
    c1, c2, c3, dense, last = weights

    def conv(h, layer):
        out = jax.lax.conv_general_dilated(h, layer["w"], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
        return jax.nn.relu(out + layer["b"])

    def pooled(h):
        return jnp.maximum(h[:, 0::2], h[:, 1::2])

    h = pooled(conv(conv(windows[..., None], c1), c2))
    h = conv(pooled(conv(h, c3)), dense)
    return jnp.einsum("nkc,kcd->nd", h, last["w"])[:, 0] + last["b"]


@jax.jit
def ensemble(members, windows):
    return jnp.mean(jnp.stack([windowed(w, windows) for w in members]), axis=0)


def cascade(members, traces):
    """Rates of traces (time, roi), NaN at the ends where there is no window."""
    out = np.full(traces.shape, np.nan, np.float32)
    for roi, trace in enumerate(np.ascontiguousarray(traces.T)):
        windows = np.lib.stride_tricks.sliding_window_view(trace, WINDOW)
        padded = np.zeros((-(-len(windows) // BATCH) * BATCH, WINDOW), np.float32)
        padded[: len(windows)] = windows
        found = [ensemble(members, padded[a : a + BATCH]) for a in range(0, len(padded), BATCH)]
        out[WINDOW // 2 : WINDOW // 2 + len(windows), roi] = np.concatenate(found)[: len(windows)]
    return out


def seconds(function, *args):
    began = time.process_time()
    function(*args)
    return time.process_time() - began


def main():
    args = parser(__doc__, seeds=1).parse_args()
    began = time.perf_counter()
    rng = np.random.default_rng(0)
    n = 64 if args.quick else NEURONS
    x = 0.05 * rng.normal(size=(FRAMES, n))
    for roi in range(n):
        x[:, roi] += np.convolve(rng.random(FRAMES) < 0.01, 0.3 * np.exp(-np.arange(60) / 15))[:FRAMES]
    recording = Recording(x.astype(np.float32), sampling_rate=RATE)
    members = [first_weights(seed) for seed in range(MEMBERS)]
    one = jnp.asarray(recording.dff[:500, 0])
    views = jnp.asarray(np.lib.stride_tricks.sliding_window_view(np.asarray(one), WINDOW))
    np.testing.assert_allclose(windowed(members[0], views), network(members[0], one[None])[0], rtol=1e-3, atol=1e-4)
    shipped = S2SSpikeEstimator.from_pretrained()
    single = S2SSpikeEstimator.from_pretrained()
    single.networks_ = shipped.networks_._replace(members=shipped.networks_.members[:1])
    oasis = OASISSpikeEstimator(spike_amplitude=0.3).fit(recording)
    few = recording.isel(roi=slice(0, max(n // 10, 8)))
    fewer = recording.isel(roi=slice(0, 8))
    models = {
        "default, three networks": (shipped.transform, recording),
        "default, one network": (single.transform, recording),
        "OASIS, decay and penalty found": (oasis.transform, few),
        "CASCADE's network, five, by windows": (lambda r: cascade(members, r.dff), fewer),
    }
    results, rows = {}, []
    for name, (function, given) in models.items():
        function(given.isel(roi=slice(0, 8)))  # compiled before it is timed
        if given.n_rois >= 64:
            function(given.isel(roi=slice(0, 64)))
        taken = seconds(function, given)
        results[name] = {"neurons": given.n_rois, "cpu_s": taken, "neuron_frames_per_s": given.n_rois * FRAMES / taken}
        rows.append([name, given.n_rois, f"{taken:.1f}", f"{results[name]['neuron_frames_per_s']:.2e}"])
    table(["", "neurons", "CPU (s)", "neuron-frames per CPU-second"], rows)
    write("spike_speed", args, began, results)


if __name__ == "__main__":
    main()
