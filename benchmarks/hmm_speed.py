"""Time and memory per iteration of the calcium HMM, beside a plain implementation and beside dynamax, in one run.

    python benchmarks/hmm_speed.py                  about 20 minutes and 16 GB (dynamax: pip install ".[peers]")
    python benchmarks/hmm_speed.py --quick          small sizes, under 2 minutes

Everything runs in float64, each measurement in a process of its own. An iteration is one step of closed-form EM
(ours, dynamax) or one value and gradient of the same calcium likelihood with its (time, state, neuron, count) terms
written out (_plain.py). Timed is the difference between a long and a short fit that differ in nothing else, so that
starts and compilation drop out: the best of three, elapsed and as processor time of all threads. Memory is the highest
resident set during the fit less what was resident before it, compilation included. Ratios hold within one run on an
idle machine; seconds depend on the machine.
"""

import json
import subprocess
import sys
import time
import warnings

import numpy as np
from _common import parser, progress, table, write

FRAMES, ROIS, STATES = 20_000, 284, 13
SHORT, LONG, REPEATS = 2, 8, 3
SHORT_IF_LARGE, LONG_IF_LARGE, REPEATS_IF_LARGE = 1, 4, 1
LARGE = 10_000_000  # samples, frames x ROIs; there a few iterations take long enough to be timed
PLAIN, OURS, DYNAMAX, OURS_GAUSSIAN = "plain calcium", "ours, calcium", "dynamax, Gaussian", "ours, Gaussian"
OURS_NOISY = "ours, calcium with measurement noise"
OBSERVATION = {OURS: "calcium", OURS_NOISY: "calcium_noisy", OURS_GAUSSIAN: "gaussian"}


def simulated(n_frames, n_rois, n_states):
    from nwb_calcium_lvm.simulate import hmm_experiment

    return hmm_experiment(n_states=n_states, n_rois=n_rois, n_frames=n_frames, random_state=0)


def seconds_of(call):
    """Return elapsed and processor seconds."""
    began, worked = time.perf_counter(), time.process_time()
    call()
    return np.array([time.perf_counter() - began, time.process_time() - worked])


def best_of(call, repeats):
    return np.min([seconds_of(call) for _ in range(repeats)], axis=0)


def per_iteration(fit, short, long, repeats):
    """Return seconds and processor seconds per iteration of ``fit(n_iterations)``: long less short, best of a few."""
    return (best_of(lambda: fit(long), repeats) - best_of(lambda: fit(short), repeats)) / (long - short)


def our_fit(truth, observation):
    from nwb_calcium_lvm import CalciumHMM

    # A start that is far from the optimum, so that EM does not stop before its iterations are used up.
    states = np.random.default_rng(0).permutation(truth.n_states)[truth.states]
    states[:: truth.n_states // 2] = 0

    def fit(n_iterations):
        model = CalciumHMM(truth.n_states, observation=observation, max_iter=n_iterations, tol=1e-300, n_init=1)
        model.fit(truth.traces, init_states=states)
        if model.n_iter_ != n_iterations:
            raise RuntimeError(f"The fit stopped after {model.n_iter_} of {n_iterations} iterations.")

    return fit


def plain_step(truth):
    import jax.numpy as jnp
    from _plain import Parameters, value_and_gradient

    n_rois, n_states = truth.n_rois, truth.n_states
    p = Parameters(
        ar_coef=jnp.asarray(truth.ar_coefs[:, 0]),
        offset=jnp.zeros(n_rois),
        amplitude=jnp.asarray(truth.spike_amplitude),
        log_variance=jnp.full(n_rois, np.log(0.1)),
        log_rates=jnp.log(truth.state_rates),
        initial_logits=jnp.zeros(n_states),
        transition_logits=3.0 * jnp.eye(n_states),
    )
    traces = jnp.asarray(truth.traces)

    def step():
        value, gradient = value_and_gradient(p, traces)
        gradient.log_rates.block_until_ready()
        if not np.isfinite(value):
            raise RuntimeError("The plain likelihood is not finite.")

    return step


def dynamax_fit(truth):
    import jax
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import DiagonalGaussianHMM

    hmm = DiagonalGaussianHMM(truth.n_states, truth.n_rois)
    traces = jnp.asarray(truth.traces)
    params, props = hmm.initialize(key=jax.random.key(0))
    return lambda n: hmm.fit_em(params, props, traces, num_iters=n, verbose=False)


def count_compilations():
    """Return a list that grows by one with each program that JAX compiles from now on."""
    import jax

    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: events.append(event) if event.endswith("backend_compile_duration") else None
    )
    return events


class PeakMemory:
    """Highest resident set since it was made, less the resident set then, in bytes (Linux; elsewhere NaN)."""

    def __init__(self):
        try:
            with open("/proc/self/clear_refs", "w") as f:
                f.write("5")  # forget the peak so far
        except OSError:
            pass
        self.before = self._status("VmRSS")

    def __call__(self):
        return self._status("VmHWM") - self.before

    @staticmethod
    def _status(field):
        try:
            with open("/proc/self/status") as f:
                line = next(line for line in f if line.startswith(field))
        except OSError:
            return float("nan")
        return 1024 * int(line.split()[1])


def measure(what, n_frames, n_rois, n_states):
    """Return seconds per iteration, bytes and compilations of one implementation at one size."""
    import jax
    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is what is timed
    jax.block_until_ready(jax.jit(lambda x: x + 1)(np.ones(3)))  # the backend is not part of anyone's memory
    truth = simulated(n_frames, n_rois, n_states)
    with jax.enable_x64(True):
        if what == PLAIN:
            step = plain_step(truth)
            memory = PeakMemory()
            step()
            peak = memory()
            seconds, processor = best_of(step, 2)
            return {"seconds": seconds, "processor_seconds": processor, "bytes": peak}
        memory = PeakMemory()
        fit = dynamax_fit(truth) if what == DYNAMAX else our_fit(truth, OBSERVATION[what])
        is_large = n_frames * n_rois > LARGE
        small_plan, large_plan = (SHORT, LONG, REPEATS), (SHORT_IF_LARGE, LONG_IF_LARGE, REPEATS_IF_LARGE)
        short, long, repeats = large_plan if is_large else small_plan
        began = time.perf_counter()
        fit(long)
        first = time.perf_counter() - began
        peak = memory()
        events = count_compilations()
        fit(long)
        compiled = len(events)
        seconds, processor = per_iteration(fit, short, long, repeats)
        return {
            "seconds": seconds,
            "processor_seconds": processor,
            "bytes": peak,
            "first_fit": first,
            "compiled_by_second_fit": compiled,
        }


def in_a_process(what, n_frames=FRAMES, n_rois=ROIS, n_states=STATES):
    sizes = [str(n) for n in (n_frames, n_rois, n_states)]
    done = subprocess.run(
        [sys.executable, __file__, "--measure", what, *sizes], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        progress(f"  {what} at {sizes} ended with exit status {done.returncode}; left out.")
        return None
    result = {"frames": n_frames, "rois": n_rois, "states": n_states} | json.loads(done.stdout.splitlines()[-1])
    progress(
        f"  {what} {n_frames} x {n_rois} x {n_states}: {result['seconds']:.3f} s, {result['bytes'] / 2**30:.2f} GB"
    )
    return result


def side_by_side(sizes):
    found = {what: in_a_process(what, *sizes) for what in (PLAIN, OURS, OURS_NOISY, OURS_GAUSSIAN, DYNAMAX)}
    ours = found[OURS]
    rows = [
        [
            what,
            f"{r['seconds']:.3f}",
            f"{r['bytes'] / 2**30:.2f}",
            f"{r['seconds'] / ours['seconds']:.1f}",
            f"{r['processor_seconds'] / ours['processor_seconds']:.1f}",
            f"{r['bytes'] / ours['bytes']:.1f}",
            r.get("compiled_by_second_fit", ""),
        ]
        for what, r in found.items()
        if r
    ]
    header = [
        "{} frames x {} ROIs, {} states".format(*sizes),
        "s/iteration",
        "GB",
        "x our time",
        "x our processor time",
        "x our memory",
        "compiled again",
    ]
    table(header, rows)
    return found


def scaling(sizes):
    found = [r for r in (in_a_process(OURS, *size) for size in sizes) if r]
    rows = []
    for r in found:
        terms = r["frames"] * r["rois"] * r["states"]
        rows.append(
            [
                f"{r['frames']} x {r['rois']} x {r['states']}",
                f"{r['seconds']:.3f}",
                f"{1e9 * r['seconds'] / terms:.2f}",
                f"{r['bytes'] / 2**30:.2f}",
                f"{r['frames'] * r['rois'] * 8 / 2**30:.2f}",
            ]
        )
    table(["frames x ROIs x states", "s/iteration", "ns per term", "GB", "GB of the traces"], rows)
    return found


def main():
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], *map(int, sys.argv[3:]))))
        return
    args = parser(__doc__, seeds=1).parse_args()
    began = time.perf_counter()
    one = (2_000, 60, 5) if args.quick else (FRAMES, ROIS, STATES)
    beside = side_by_side(one)
    print()
    frames = [1_000, 4_000] if args.quick else [5_000, 20_000, 60_000, 200_000]
    rois = [30, 120] if args.quick else [100, 300, 1000]
    along = scaling([(t, one[1], one[2]) for t in frames])
    print()
    across = scaling([(one[0], n, one[2]) for n in rois])
    write("hmm_speed", args, began, {"side_by_side": beside, "frames": along, "rois": across})


if __name__ == "__main__":
    main()
