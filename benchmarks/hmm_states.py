"""Which hidden Markov model finds the states behind calcium traces? The simulated experiment of the model's paper.

    python benchmarks/hmm_states.py                 10 seeds, 20 minutes on one core (peers: pip install ".[peers]")
    python benchmarks/hmm_states.py --quick         2 seeds, few candidates, about 2 minutes

25 neurons in 5 groups; in state k, group k fires 0.2 spikes per frame and all others 0.05. States run through a chain
and stay with probability 0.95. Calcium is AR(1) with coefficients from N(0.8, 0.1) clipped to [0.6, 0.95], one unit per
spike, innovation variance 0.01, and measurement noise of sd 0.2 that none of the models knows of. 2000 frames to fit,
2000 to test.

States are the most probable ones given the whole half, matched to the true ones on the training half; reported are the
Pearson correlation of the labels 0..4 and the share of right frames in the test half. "True parameters" is the calcium
model, written out in _plain.py, at the parameters that made the data, with the measurement noise added to the variance.
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _common import parser, progress, spread, table, write
from _peers import available
from _plain import Parameters, smoothed_probabilities

from nwb_calcium_lvm import CalciumHMM
from nwb_calcium_lvm.hmm import select_n_states
from nwb_calcium_lvm.metrics import match_states, one_standard_error_choice, state_accuracy, state_correlation
from nwb_calcium_lvm.simulate import hmm_experiment

N_STATES, N_FRAMES = 5, 2000
CALCIUM, AR, GAUSSIAN, POISSON = "calcium", "AR-Gaussian", "Gaussian", "Poisson on true spikes"
OBSERVATION = {CALCIUM: "calcium", AR: "ar_gaussian", GAUSSIAN: "gaussian", POISSON: "poisson"}
TRUTH = "calcium, true parameters"
# Of 1, 10, 20, 50 and 100, the weight of the prior on rates, means and variances with the highest held-out likelihood
# within the training half (5 folds, seeds 0 to 3), for calcium, AR-Gaussian and Gaussian alike.
PRIOR_FRAMES = 50.0
CANDIDATES = tuple(range(2, 10))


def experiment(seed):
    truth = hmm_experiment(n_states=N_STATES, n_frames=2 * N_FRAMES, random_state=seed)
    return truth, slice(0, N_FRAMES), slice(N_FRAMES, None)


def ours(observation, n_init, seed, **parameters):
    settings = {"observation": observation, "prior_frames": PRIOR_FRAMES, "n_init": n_init, "random_state": seed}
    return CalciumHMM(**settings, **parameters)


def labels_at_true_parameters(truth, train, test):
    alpha = truth.ar_coefs[:, 0]
    variance = truth.noise_variance + truth.measurement_sd**2 * (1 + alpha**2)
    logits = jnp.log(jnp.asarray(truth.transition_matrix) + 1e-12)
    p = Parameters(
        ar_coef=jnp.asarray(alpha),
        offset=jnp.zeros(truth.n_rois),
        amplitude=jnp.asarray(truth.spike_amplitude),
        log_variance=jnp.log(variance),
        log_rates=jnp.log(truth.state_rates),
        initial_logits=jnp.zeros(N_STATES),
        transition_logits=logits,
    )
    halves = (np.asarray(smoothed_probabilities(p, jnp.asarray(truth.traces[h]))) for h in (train, test))
    return tuple(np.concatenate([g[:1], g]).argmax(1) for g in halves)


def evaluate(labels, truth, train, test):
    """Return the correlation and the accuracy on the test half, states matched on the training half."""
    found_train, found_test = labels
    match = match_states(truth.states[train], found_train, N_STATES)
    true = truth.states[test]
    correlation = np.nan_to_num(state_correlation(true, found_test, match))  # NaN where it never leaves one state
    return {"correlation": correlation, "accuracy": state_accuracy(true, found_test, match)}


def states_of_one_seed(seed, n_init):
    truth, train, test = experiment(seed)
    results, influx = {}, None
    for name, observation in OBSERVATION.items():
        data = truth.spikes.astype(float) if name == POISSON else truth.traces
        began = time.perf_counter()
        model = ours(observation, n_init, seed, n_states=N_STATES).fit(data[train])
        seconds = time.perf_counter() - began
        labels = tuple(model.predict_proba(data[half]).argmax(1) for half in (train, test))
        results[name] = evaluate(labels, truth, train, test) | {"seconds": seconds}
        if name == CALCIUM:
            influx = estimated_influx(model, labels[0], truth, train)
    results[TRUTH] = evaluate(labels_at_true_parameters(truth, train, test), truth, train, test)
    for name, fit in available().items():
        data = truth.spikes.astype(float) if name.startswith("Poisson") else truth.traces
        results[name] = evaluate(fit(data[train], data[test], N_STATES, seed), truth, train, test)
    return results, influx


def estimated_influx(model, labels, truth, train):
    """Return influx (amplitude times rate) and rates per frame, states in the true order, and the truth."""
    order = np.argsort(match_states(truth.states[train], labels, N_STATES))
    rates = model.spikes_per_frame_[order]
    return {
        "estimated_rates": rates,
        "estimated_influx": model.spike_amplitude_ * rates,
        "true_rates": truth.state_rates,
        "true_influx": truth.spike_amplitude * truth.state_rates,
        "estimated_ar_coefs": model.ar_coefs_[:, 0],
        "true_ar_coefs": truth.ar_coefs[:, 0],
    }


def choose(seed, n_init, candidates, n_folds):
    """Return the held-out scores of 10 sequences of 400 frames per observation model and number of states."""
    truth, _, _ = experiment(seed)
    chosen = {}
    for name, observation in OBSERVATION.items():
        data = truth.spikes.astype(float) if name == POISSON else truth.traces
        model = ours(observation, n_init, seed)
        found = select_n_states(model, np.split(data, 10), candidates, cv=n_folds)
        chosen[name] = {
            "mean_score": found.mean[0],
            "best": found.best[observation],
            "paired": found.chosen[observation],
            "unpaired": candidates[one_standard_error_choice(found.scores[0])],
        }
        progress(f"  seed {seed}: {name} chooses {chosen[name]['paired']} states, best {chosen[name]['best']}")
    return chosen


def draw(path, influx, choices, candidates):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for axis, kind in zip(axes, ("influx", "rates"), strict=False):
        x = np.concatenate([np.ravel(i[f"true_{kind}"]) for i in influx])
        y = np.concatenate([np.ravel(i[f"estimated_{kind}"]) for i in influx])
        jitter = np.random.default_rng(0).normal(0, 0.003, x.size)
        axis.plot(x + jitter, y, ".", ms=2, alpha=0.4)
        axis.axline((0, 0), slope=1, color="0.5", lw=1)
        axis.set(xlabel=f"true {kind} per frame", ylabel=f"estimated {kind} per frame")
    for name in OBSERVATION:
        curves = np.array([c[name]["mean_score"] for c in choices])
        axes[2].plot(candidates, (curves - curves.max(1, keepdims=True)).mean(0), ".-", label=name)
    axes[2].set(xlabel="number of states", ylabel="held-out nats per sample, below best", ylim=(-0.03, 0.002))
    axes[2].axvline(N_STATES, color="0.8", zorder=0)
    axes[2].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def report(states, influx, choices):
    names = sorted(states[0], key=lambda n: -np.mean([s[n]["correlation"] for s in states]))
    rows = [[n, *(spread([s[n][k] for s in states]) for k in ("correlation", "accuracy"))] for n in names]
    table(["model", "correlation of states", "accuracy"], rows)
    gap = [s[TRUTH]["correlation"] - s[CALCIUM]["correlation"] for s in states]
    rivals = [n for n in names if "Gaussian" in n or "linear AR" in n]
    lead = [min(s[CALCIUM]["correlation"] - s[n]["correlation"] for n in rivals) for s in states]
    print(f"\nCalcium below the same model at its true parameters by at most {max(gap):.3f} (mean {np.mean(gap):.3f}).")
    print(f"Calcium above the best Gaussian variant by at least {min(lead):.3f} (mean {np.mean(lead):.3f}).")
    fits = {}
    for kind in ("influx", "rates"):
        x = np.concatenate([np.ravel(i[f"true_{kind}"]) for i in influx])
        y = np.concatenate([np.ravel(i[f"estimated_{kind}"]) for i in influx])
        fits[kind] = {"correlation": np.corrcoef(x, y)[0, 1], "slope": np.polyfit(x, y, 1)[0], "bias": np.mean(y - x)}
    error = np.mean([np.abs(i["estimated_ar_coefs"] - i["true_ar_coefs"]) for i in influx])
    print(f"AR coefficients are off by {error:.3f} on average (the measurement noise is not in the model).\n")
    table(
        ["per frame", "correlation with truth", "slope", "mean error"],
        [[k, *(f"{v[m]:.3f}" for m in ("correlation", "slope", "bias"))] for k, v in fits.items()],
    )
    print(f"\nNumbers of states chosen by held-out likelihood, one per seed (there are {N_STATES}):")
    rules = ["paired", "unpaired", "best"]
    rows = [[n, *(" ".join(str(c[n][rule]) for c in choices) for rule in rules)] for n in OBSERVATION]
    table(["model", "one standard error, paired", "unpaired", "highest mean"], rows)
    return {"gap_to_true_parameters": gap, "lead_over_gaussian": lead, "ar_coef_error": error, "recovery": fits}


def main():
    p = parser(__doc__, seeds=10)
    p.add_argument(
        "--choice-seeds", type=int, default=3, help="seeds for the choice of n_states (default: %(default)s)"
    )
    p.add_argument("--n-init", type=int, default=5, help="starts of our models (default: %(default)s)")
    args = p.parse_args()
    began = time.perf_counter()
    seeds, choice_seeds = (2, 1) if args.quick else (args.seeds, args.choice_seeds)
    candidates = (4, 5, 6) if args.quick else CANDIDATES
    with jax.enable_x64(True):
        states, influx = [], []
        for seed in range(seeds):
            found, rates = states_of_one_seed(seed, args.n_init)
            states.append(found)
            influx.append(rates)
            progress(f"seed {seed}: " + ", ".join(f"{n} {r['correlation']:.3f}" for n, r in found.items()))
        choices = [
            choose(seed, min(2, args.n_init), candidates, 2 if args.quick else 5) for seed in range(choice_seeds)
        ]
    summary = report(states, influx, choices)
    results = {"states": states, "summary": summary, "candidates": candidates, "choices": choices}
    write("hmm_states", args, began, results)
    if not args.quick:
        draw(Path(args.out) / "hmm_states.png", influx, choices, candidates)


if __name__ == "__main__":
    main()
