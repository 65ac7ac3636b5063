"""Time of a CalciumGPFA fit: against the paper's way, against the number of frames, and of a large one.

    python benchmarks/gpfa_speed.py --out benchmarks/results/gpfa_speed.json [--parts blackbox frames scans large]

All numbers of a part come from one run on one machine; compare them with each other only. Compilation is left out of
`blackbox` and `frames` by a first call of the same shape, and part of `large`.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nwb_calcium_lvm import CalciumGPFA, Recording
from nwb_calcium_lvm.gpfa import blackbox, fitting, kalman
from nwb_calcium_lvm.gpfa.frames import Sites
from nwb_calcium_lvm.gpfa.plans import plan_for
from nwb_calcium_lvm.simulate import gpfa_experiment


def against_black_box(n_steps: int) -> dict[str, Any]:
    """Seconds to the bound that black-box steps reach, both with the RBF kernel and from the same start."""
    truth = gpfa_experiment(random_state=0)
    options: dict[str, Any] = {"ar_order": 2, "kernel": "rbf", "n_init": 1, "random_state": 0}
    CalciumGPFA(3, inference="blackbox", max_iter=blackbox.STEPS_AT_A_TIME, **options).fit(truth.traces)
    began = time.perf_counter()
    slow = CalciumGPFA(3, inference="blackbox", max_iter=n_steps, **options).fit(truth.traces)
    slow_seconds = time.perf_counter() - began
    reached = float(slow.elbo_history_[-blackbox.STEPS_AT_A_TIME :].mean())
    CalciumGPFA(3, **options).fit(truth.traces)
    began = time.perf_counter()
    fast = CalciumGPFA(3, **options).fit(truth.traces)
    fast_seconds = time.perf_counter() - began
    steps = int(np.argmax(fast.elbo_history_ >= reached)) if fast.elbo_history_[-1] >= reached else -1
    to_same = fast_seconds * max(steps, 1) / max(fast.n_iter_, 1)
    return {
        "black-box steps": n_steps,
        "black-box seconds": slow_seconds,
        "black-box bound": reached,
        "closed bound at its end": float(fast.elbo_history_[-1]),
        "closed seconds to its end": fast_seconds,
        "closed steps": fast.n_iter_,
        "closed steps to the same bound": steps,
        "closed seconds to the same bound, about": to_same,
        "ratio to the same bound": slow_seconds / to_same,
        "ratio per step": (slow_seconds / n_steps) / (fast_seconds / fast.n_iter_),
    }


def against_frames(lengths: list[int]) -> list[dict[str, Any]]:
    """Seconds of a step with the state-space engine, 30 neurons, 3 latents."""
    rows = []
    for n_frames in lengths:
        truth = gpfa_experiment(n_frames=n_frames, random_state=0)
        recording = Recording(truth.traces)
        plan = plan_for("calcium", recording, 2)
        settings = fitting.Settings(3, "matern32", 1, 5, 0.0, False, 1.0, None, True, 0)
        with jax.enable_x64(True):
            problem = fitting.problem_for(plan, recording, settings)
            point = fitting.first_point(problem, recording, settings, 60)
            climber = fitting.Climber(problem, settings, None)
            climber.look(point)
            seconds = []
            for _ in range(3):
                began = time.perf_counter()
                climber.look(point)
                seconds.append(time.perf_counter() - began)
        rows.append({"frames": n_frames, "padded": problem.layout.n_padded, "seconds a step": min(seconds)})
        print(rows[-1], flush=True)
    return rows


def scans() -> list[dict[str, Any]]:
    """Seconds of a smoothing pass frame by frame and at once, on the device there is; compilation apart."""
    rows = []
    for n_frames, n_latents in ((4096, 3), (32_768, 3), (32_768, 8)):
        rng = np.random.default_rng(0)
        root = rng.normal(size=(n_frames, n_latents, n_latents)) / n_latents
        with jax.enable_x64(True):
            linear = np.einsum("tij,tj->ti", root, rng.normal(size=(n_frames, n_latents)))
            sites = Sites(jnp.asarray(root @ root.transpose(0, 2, 1)), jnp.asarray(linear))
            kind = jnp.ones(n_frames, int).at[0].set(0)
            clock = kalman.Clock(jnp.asarray([np.inf, 1.0]), kind)
            scales = jnp.log(jnp.linspace(30.0, 300.0, n_latents))
            row: dict[str, Any] = {"frames": n_frames, "latents": n_latents, "device": jax.devices()[0].device_kind}
            for name, chunk, at_once in (("in turn", 256, False), ("at once", 4096, True)):
                smooth = partial(kalman.smooth, "matern32", scales, clock, sites, chunk=chunk, at_once=at_once)
                seconds = []
                for _ in range(4):
                    began = time.perf_counter()
                    jax.block_until_ready(smooth())
                    seconds.append(time.perf_counter() - began)
                row |= {f"{name}, seconds": min(seconds[1:]), f"{name}, first call": seconds[0]}
        rows.append(row)
    return rows


def large(n_rois: int, n_frames: int, n_latents: int) -> dict[str, Any]:
    """A whole fit, compilation and all, and the most memory the process has held."""
    truth = gpfa_experiment(
        n_rois, n_frames, timescales=np.linspace(30, 300, n_latents), mean_rate=0.1, loading_sd=0.4,
        ar_coefs=[0.9], random_state=0,
    )  # fmt: skip
    traces, latents = truth.traces.astype(np.float32), truth.latents
    del truth
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    began, cpu = time.perf_counter(), time.process_time()
    model = CalciumGPFA(n_latents, n_init=1, tol=1e-5, max_iter=60).fit(traces)
    out = {
        "neurons": n_rois, "frames": n_frames, "latents": n_latents,
        "seconds": time.perf_counter() - began,
        "seconds of processor": time.process_time() - cpu,
        "steps": model.n_iter_, "converged": model.converged_,
        "peak GB before the fit": before,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }  # fmt: skip
    found = model.transform(traces)
    design = np.column_stack([found, np.ones(len(found))])
    residual = latents - design @ np.linalg.lstsq(design, latents, rcond=None)[0]
    return out | {"R2": float((1 - residual.var(axis=0) / latents.var(axis=0)).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="*", default=["blackbox", "frames", "scans", "large"])
    parser.add_argument("--black-box-steps", type=int, default=1000)
    parser.add_argument("--lengths", type=int, nargs="*", default=[1000, 4000, 16_000, 64_000, 200_000])
    parser.add_argument("--large", type=int, nargs=3, default=[1000, 27_000, 8])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpfa_speed.json"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    jobs = {
        "blackbox": lambda: against_black_box(options.black_box_steps),
        "frames": lambda: against_frames(options.lengths),
        "scans": scans,
        "large": lambda: large(*options.large),
    }
    for part in options.parts:
        found[part] = jobs[part]()
        print(part, json.dumps(found[part], indent=1), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
