"""Neurons of a real recording predicted from the others: GPFA and LFADS on calcium, Gaussian traces, and spikes.

    NWB_CALCIUM_LVM_DATA=... python benchmarks/allen_cosmoothing.py --seeds 5

Mouse visual cortex, GCaMP6f, 30 Hz, 74 neurons (Allen Brain Observatory). Models are fitted to the first 80 % of the
frames. Of the rest, a quarter of the neurons, drawn anew for each seed, is predicted from the others. All predictions
are judged alike: log rates are ``a + b x``, x what the model predicts for the neuron (its log rate, or its trace's
drive), with a and b of each neuron fitted to the calcium likelihood of the first 80 %, under calcium parameters that
are the same for all methods (those of cells by themselves, with measurement noise); bits per sample above the best
constant rate. ``own`` is each model's likelihood under its own observation model.
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import _common
import jax
import jax.numpy as jnp
import numpy as np
from scipy.io import loadmat
from scipy.optimize import minimize

from nwb_calcium_lvm import CalciumGPFA, CalciumLFADS, OASISSpikeEstimator, Recording, observations
from nwb_calcium_lvm.observations.calcium_noisy import CalciumNoisyParams
from nwb_calcium_lvm.observations.cells import fit_cells

RATE, N_LATENTS = 30.0, 4


def recording():
    root = Path(os.environ["NWB_CALCIUM_LVM_DATA"])
    traces = loadmat(root / "populations" / "allen_visual_coding_30hz_552195520.mat")["dF_traces"].T.astype(float)
    return traces[:, Recording(traces[: len(traces) // 2]).usable]


def counts(traces, until):
    """Deconvolved spikes, as whole numbers, at least one before the frame ``until``."""
    found = OASISSpikeEstimator(sampling_rate=RATE).fit(traces).predict(traces)
    out = np.round(np.maximum(found, 0.0))
    out[0] += out[:until].sum(axis=0) == 0
    return out


def methods(epochs):
    gpfa = {"n_latents": N_LATENTS, "sampling_rate": RATE}
    lfads = {
        "n_factors": N_LATENTS,
        "sampling_rate": RATE,
        "max_epochs": epochs,
        "coordinated_dropout": 0.3,
        "n_generator": 64,
    }
    return {
        "GPFA, calcium": lambda seed: CalciumGPFA(**gpfa),
        "GPFA, AR-Gaussian": lambda seed: CalciumGPFA(observation="ar_gaussian", **gpfa),
        "GPFA, Poisson on deconvolved": lambda seed: CalciumGPFA(observation="poisson", **gpfa),
        "LFADS, calcium": lambda seed: CalciumLFADS(random_state=seed, **lfads),
        "LFADS, AR-Gaussian": lambda seed: CalciumLFADS(observation="ar_gaussian", random_state=seed, **lfads),
    }


@jax.jit
def _negative(ab, x, y, params):
    log_rate = jnp.clip(ab[0] + ab[1] * x, -14.0, 3.0)
    found = observations.get("calcium_noisy").log_likelihood(y[:, None], log_rate[:, None], params)
    return -found.mean()


_gradient = jax.jit(jax.value_and_grad(_negative))


def common_bits(train_x, test_x, train_y, test_y, cells):
    """Bits per sample of each neuron above its best constant rate, all under the same calcium parameters."""
    bits = []
    with jax.enable_x64(True):
        for i in range(train_y.shape[1]):
            params = jax.tree.map(lambda a, i=i: jnp.asarray(a[i : i + 1]), cells)
            centre, spread = train_x[:, i].mean(), max(train_x[:, i].std(), 1e-9)
            found = []
            for slope in (0.0, 1.0):
                x = jnp.asarray(slope * (train_x[:, i] - centre) / spread)
                fit = minimize(
                    lambda ab, x=x, i=i, p=params: _as_numpy(_gradient(ab, x, train_y[:, i], p)),
                    [-2.0, 0.3],
                    jac=True,
                    method="L-BFGS-B",
                    bounds=[(-9, 2), (-4, 4)],
                )
                x = jnp.asarray(slope * (test_x[:, i] - centre) / spread)
                found.append(float(_negative(jnp.asarray(fit.x), x, test_y[:, i], params)))
            bits.append((found[0] - found[1]) / np.log(2.0))
    return np.array(bits)


def _as_numpy(pair):
    value, gradient = pair
    return float(value), np.asarray(gradient, float)


def predictor(model, traces, held_out):
    found = model.cosmooth(Recording(traces, sampling_rate=RATE), held_out)
    spikes = not model.observation.endswith("gaussian")
    x = np.clip(np.log(np.maximum(np.nan_to_num(found.rates), 1e-9)), -14.0, 3.0) if spikes else found.rates
    return x, found.bits_per_sample


def main():
    parser = _common.parser(__doc__, 5)
    parser.add_argument("--epochs", type=int, default=150)
    args = parser.parse_args()
    began, results = time.perf_counter(), {}
    traces = recording()[: 3500 if args.quick else None]
    until = int(0.8 * len(traces))
    train, test = traces[:until], traces[until:]
    cells = fit_cells(train, np.ones(train.shape, bool), np.zeros(1, int)).params
    spikes = counts(traces, until)
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        held_out = np.sort(rng.permutation(traces.shape[1])[: traces.shape[1] // 4])
        for name, make in methods(2 if args.quick else args.epochs).items():
            mine = results.setdefault(name, {"common": [], "own": [], "seconds": []})
            poisson = "Poisson" in name
            fit_to, other = (spikes[:until], spikes[until:]) if poisson else (train, test)
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if seed == 0 or "LFADS" in name:  # GPFA has no seed: one fit serves all
                    model = make(seed).fit(fit_to)
                    mine["model"] = model
                model = mine["model"]
                train_x, _ = predictor(model, fit_to, held_out)
                test_x, own = predictor(model, other, held_out)
            of_cells = CalciumNoisyParams(*(None if a is None else a[held_out] for a in cells))
            bits = common_bits(train_x, test_x, train[:, held_out], test[:, held_out], of_cells)
            mine["common"].append(bits.mean())
            mine["own"].append(own.mean())
            mine["seconds"].append(time.perf_counter() - start)
            print(seed, name, round(bits.mean(), 5), round(own.mean(), 5), round(mine["seconds"][-1], 1), flush=True)
        plain = {k: {kk: vv for kk, vv in v.items() if kk != "model"} for k, v in results.items()}
        _common.write("allen_cosmoothing", args, began, plain)
    for name, mine in results.items():
        common, own = (np.array(mine[k]) for k in ("common", "own"))
        print(f"{name:30s} {common.mean():.4f} +- {common.std():.4f} bits per sample; own {own.mean():.4f}")


if __name__ == "__main__":
    main()
