"""``nwb-calcium-lvm demo``: the whole way on a simulated session, and how well it went."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from nwb_calcium_lvm.cli._console import Say
from nwb_calcium_lvm.cli._fit import summary
from nwb_calcium_lvm.metrics import match_states, rate_correlation, state_accuracy
from nwb_calcium_lvm.result import InferenceResult
from nwb_calcium_lvm.simulate import SimulatedSession, session

_SESSION = "demo_session.nwb"
_RESULT = "demo_session_calcium_lvm.nwb"
_PICTURE = "demo_overview.png"


def run_demo(
    out: Path,
    seed: int,
    say: Say,
    *,
    verbose: bool = True,
    duration: float = 400.0,
    n_init: int = 3,
    dry_run: bool = False,
) -> None:
    """Simulate, write, read, fit, write, draw, compare.

    Parameters
    ----------
    out : Path
        Folder for the files; files of an earlier demo in it are replaced.
    seed : int
        Seed of everything.
    say : callable
        Takes what there is to tell.
    verbose : bool
        Whether to show a progress bar.
    duration : float
        Length of the session in s.
    n_init : int
        Starts of the fit.
    dry_run : bool
        Only say what would be written.
    """
    if dry_run:
        say("Would write:")
        for name in (_SESSION, _RESULT, _PICTURE):
            say(f"  {out / name}")
        say("Nothing was written (--dry-run).")
        return
    from nwb_calcium_lvm.io.demo_file import write_session_nwb

    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    truth = session(
        n_states=4, n_rois=40, duration=duration, sampling_rate=10.0, indicator="jGCaMP8s", nu=1.0, random_state=seed
    )
    path = write_session_nwb(truth, out / _SESSION)
    say(
        f"1. Simulated {truth.n_rois} neurons for {duration:g} s at 10 Hz in {truth.n_states} hidden states:\n"
        f"   a saturating indicator, bleaching, neuropil and shot noise. Raw fluorescence is in {path}"
    )

    from nwb_calcium_lvm.hmm import CalciumHMM
    from nwb_calcium_lvm.io import read_nwb, write_nwb
    from nwb_calcium_lvm.plotting import overview

    recording = read_nwb(path)
    say(f"2. Read it back as dF/F: {recording!r}")
    fitting = time.monotonic()
    hmm = CalciumHMM(n_states=truth.n_states, n_init=n_init, max_iter=300, random_state=seed, verbose=int(verbose))
    result = hmm.fit(recording).infer(recording)
    say(f"3. Fitted, with compilation: {summary(result, time.monotonic() - fitting)}")
    target = out / _RESULT
    target.unlink(missing_ok=True)
    say(f"4. Wrote the states, rates and parameters to {write_nwb(result, target)}")
    picture = out / _PICTURE
    overview(result, recording, title="Demo: the states of a simulated population").savefig(picture, dpi=150)
    say(f"5. Drew {picture}\n\nAgainst the truth, which the model has not seen:")
    for line in against_truth(truth, result):
        say(f"  {line}")
    say(f"\nDone in {time.monotonic() - started:.0f} s. On your own data: nwb-calcium-lvm fit hmm YOUR_FILE_OR_FOLDER")


def against_truth(truth: SimulatedSession, result: InferenceResult) -> list[str]:
    """Return the comparison of what was inferred with what was simulated, a line each."""
    path, n_states = result["states"], truth.n_states
    match = match_states(truth.states, path, n_states)
    found = np.asarray(result["state_rates"])[:, np.argsort(match)]
    rates = rate_correlation(truth.state_rates_hz.T, found).overall
    over_time = rate_correlation(truth.firing_rates, result["firing_rates"]).overall
    decay, true_decay = np.median(result["decay_time"]), np.median(truth.decay_time)
    chance = np.bincount(truth.states).max() / len(truth.states)
    return [
        f"frames in the right state:         {100 * state_accuracy(truth.states, path, match):5.1f} %  "
        f"(always the commonest: {100 * chance:.0f} %)",
        f"rates of neurons in states:        {rates:5.2f}    (correlation)",
        f"rates of neurons over time:         {over_time:5.2f}    (correlation)",
        f"mean firing rate:                  {np.mean(result['firing_rates']):5.2f} Hz "
        f"(simulated: {truth.firing_rates.mean():.2f} Hz; rate and size of a spike trade off)",
        f"decay time of dF/F, median:        {decay:5.2f} s  (simulated: {true_decay:.2f} s)",
    ]
