"""Neurons of a real recording predicted from the others, by GPFA and LFADS: bits per sample by observation model.

    NWB_CALCIUM_LVM_DATA=... python benchmarks/allen_cosmoothing.py --seeds 5

Mouse visual cortex, GCaMP6f, 30 Hz, 6,001 frames (Allen Brain Observatory). Models with 4 latents or factors are fitted
to the first 80 % of the frames (LFADS as a continuous recording, in windows of 100 frames, with coordinated dropout).
In the rest, a quarter of the neurons, drawn anew for each seed, is predicted from the others.
All predictions are judged alike, since likelihoods of different observation models cannot be compared: the log rate is
``a + b x``, x what the model predicts (log rate, or drive of the trace), a and b of each neuron fitted to the first
80 %, under parameters of calcium with measurement noise found for each cell by itself on the first 80 %. Bits are
those above the best constant rate of the first 80 %, so that a prediction may be worse than none.
"""

import json
import os
import time
import warnings
from pathlib import Path

import _common
import jax
import jax.numpy as jnp
import numpy as np
from scipy.io import loadmat

from nwb_calcium_lvm import CalciumGPFA, CalciumLFADS, FilterSpikeEstimator, Recording
from nwb_calcium_lvm.gpfa.readouts import Block, NoisyReadout
from nwb_calcium_lvm.observations._climb import descend
from nwb_calcium_lvm.observations.cell_starts import likelier_cells

RATE, LATENTS, CALLS = 30.0, 4, 30
OBSERVATIONS = ("calcium", "calcium_noisy", "ar_gaussian", "gaussian", "poisson")
METHODS = {
    **{
        f"GPFA, {name}": (CalciumGPFA, name)
        for name in ("calcium", "calcium_noisy", "ar_gaussian", "gaussian", "poisson")
    },
    **{f"LFADS, {name}": (CalciumLFADS, name) for name in ("calcium", "ar_gaussian")},
}
LFADS = {"n_generator": 64, "coordinated_dropout": 0.3, "max_epochs": 200, "random_state": 0}
READOUT = NoisyReadout(order=1)


def recording():
    path = Path(os.environ["NWB_CALCIUM_LVM_DATA"]) / "populations" / "allen_visual_coding_30hz_552195520.mat"
    traces = loadmat(path)["dF_traces"].T.astype(float)
    return traces[:, Recording(traces[: len(traces) // 2]).usable]


def deconvolved(traces, until):
    """Counts, with at least one of each neuron before the frame ``until``."""
    spikes = FilterSpikeEstimator(sampling_rate=RATE).fit(traces[:until]).predict(traces)
    counts = np.round(np.maximum(spikes, 0.0))
    counts[0] += counts[:until].sum(axis=0) == 0
    return counts


@jax.jit
def log_likelihood(unknowns, x, y, params):
    """Nats of each neuron (n,) at log rates a + b x, and their sum."""
    seen = jnp.ones(y.shape, bool)
    block = Block(y, seen, seen, jnp.zeros(len(y), bool).at[0].set(True))
    eta = jnp.clip(unknowns[:, 0] + unknowns[:, 1] * x, -14.0, 4.0)
    each = READOUT.log_likelihood(eta, params, block).sum(axis=0)
    return each.sum(), each


slopes = jax.jit(jax.value_and_grad(log_likelihood, has_aux=True))


def fitted(x, y, params, start):
    """Best a and b of each neuron (n, 2)."""

    def function(at):
        (_, each), slope = slopes(jnp.asarray(at), x, y, params)
        return -np.asarray(each), -np.asarray(slope)

    return descend(function, start, np.full(len(start), 1e-3), CALLS).unknowns


def bits(train_x, test_x, train_y, test_y, params):
    """Bits per sample of each neuron above its best constant rate."""
    centre, spread = train_x.mean(axis=0), np.maximum(train_x.std(axis=0), 1e-9)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        begin = np.tile([-2.5, 0.0], (train_y.shape[1], 1))
        constant = fitted(np.zeros_like(train_x), train_y, params, begin)
        found = fitted((train_x - centre) / spread, train_y, params, constant)
        test = (test_x - centre) / spread
        gain = log_likelihood(jnp.asarray(found), test, test_y, params)[1]
        gain = gain - log_likelihood(jnp.asarray(constant), 0 * test, test_y, params)[1]
    return np.asarray(gain) / len(test_y) / np.log(2)


def predicted(model, X, held_out):
    """What drives the neurons that are left out, (time, n): log rates, or drives of traces."""
    rates = model.cosmooth(X, held_out).rates
    return np.log(np.maximum(rates, 1e-6)) if model.observation in ("calcium", "calcium_noisy", "poisson") else rates


def main():
    parser = _common.parser(__doc__, 5)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    began, results = time.perf_counter(), {}
    kept = args.out / "allen_cosmoothing.json"
    if kept.exists() and not args.quick:  # takes up what an earlier run has
        results = json.loads(kept.read_text(encoding="utf-8"))["results"]
    traces = recording()
    traces = traces[:1000, :16] if args.quick else traces
    until = int(0.8 * len(traces))
    first = np.zeros(1, int)
    cells, _ = likelier_cells(traces[:until], np.ones((until, traces.shape[1]), bool), first, {"ar_order": 1})
    _common.progress(f"cells: {time.perf_counter() - began:.0f} s")
    for name, (cls, observation) in METHODS.items():
        if name not in args.methods:
            continue
        X = deconvolved(traces, until) if observation == "poisson" else traces
        options = LFADS if cls is CalciumLFADS else {}
        model = cls(LATENTS, observation=observation, sampling_rate=RATE, **options).fit(X[:until])
        results[name] = {"steps": model.n_iter_, "bits": {}}
        for seed in range(args.seeds):
            n = traces.shape[1]
            held = np.sort(np.random.default_rng(seed).permutation(n)[: n // 4])
            x = predicted(model, X[:until], held), predicted(model, X[until:], held)
            of_cells = jax.tree.map(lambda a, at=held: np.asarray(a)[at], cells)
            each = bits(*x, traces[:until, held], traces[until:, held], of_cells)
            results[name]["bits"][seed] = each
            _common.progress(f"{name} {seed}: {each.mean():.4f} bits, {time.perf_counter() - began:.0f} s")
        _common.write("allen_cosmoothing", args, began, results)
    header = ["model", "bits per sample", "neurons above 0"]
    rows = [
        [
            name,
            _common.spread([np.mean(b) for b in found["bits"].values()], 4),
            _common.spread([np.mean(np.array(b) > 0) for b in found["bits"].values()], 2),
        ]
        for name, found in results.items()
    ]
    _common.table(header, rows)


if __name__ == "__main__":
    main()
