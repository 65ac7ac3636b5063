"""What to try next: numbers of a recording and its results turned into advice. Each rule is one small function."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from nwb_calcium_lvm.report._document import Advice
from nwb_calcium_lvm.report._reading import Traces
from nwb_calcium_lvm.report._visits import mean_over_time, share_in_first_half
from nwb_calcium_lvm.result import InferenceResult

logger = logging.getLogger(__name__)

_POOR = 8.0  # ν above which a trace tells little
_FEW_SPIKES = 20  # expected in the whole session: fewer say nothing of amplitude and decay
_SHORT_VISIT = 2.0  # frames
_RARE = 0.01  # share of time
_OFF = 2.0  # factor between the decay time found and the indicator's


class Seen(NamedTuple):
    """What a rule looks at."""

    name: str
    result: InferenceResult
    traces: Traces | None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Hyper-parameters of the model."""
        return self.result.model.get("hyperparameters") or {}

    def parameter(self, name: str) -> Any:
        """Return a parameter as float array, or None."""
        found = self.result.parameters.get(name)
        return None if found is None else np.asarray(found.values, float)


def advice_on(results: Mapping[str, InferenceResult], traces: Traces | None) -> list[Advice]:
    """Return all advice, problems first."""
    found = [] if traces is None else list(_on_recording(traces))
    for name, result in results.items():
        seen = Seen(name, result, traces)
        for rule in _RULES:
            try:
                found += rule(seen)
            except (ValueError, TypeError, LookupError):  # of an odd shape; other rules may apply
                logger.info("%s has nothing to say of %s", rule.__name__, name, exc_info=True)
    return sorted(found, key=lambda advice: advice.level != "problem")


def _on_recording(traces: Traces) -> Iterator[Advice]:
    quality, about = traces.quality, "recording"
    noise = quality.noise_level[np.isfinite(quality.noise_level)]
    poor = int((noise > _POOR).sum())
    if poor:
        yield Advice(
            "problem" if poor > len(noise) / 2 else "hint",
            about,
            f"The noise level ν is above {_POOR:g} in {poor} of {len(noise)} ROIs.",
            "Leave them out: recording.isel(roi=recording.roi_metadata['noise_level'] < 8). Averaging frames to a "
            "lower rate does not lower ν; larger ROIs or more light do.",
        )
    if quality.dead.any():
        yield Advice(
            "hint",
            about,
            f"{int(quality.dead.sum())} ROIs are constant or were never observed.",
            "They are left out of every fit. Mark them as no cells in the file, so that counts of ROIs agree.",
        )
    if quality.saturated.any():
        yield Advice(
            "hint",
            about,
            f"{int(quality.saturated.sum())} ROIs stay at the top of their range for over 1 % of the frames.",
            "Look at their traces: a detector or an indicator that is saturated hides spikes, and rates come out too "
            "low. Leave them out, or mask those frames with recording.exclude(...).",
        )
    if traces.clock.indicator is None:
        yield Advice(
            "hint",
            about,
            "The file names no indicator that is known here.",
            "Pass --indicator gcamp6s (or another) to fit, so that decay times have a prior and can be checked.",
        )


def _not_converged(seen: Seen) -> Iterator[Advice]:
    if seen.result.converged or seen.result.model.get("objective_history") is None:
        return
    if "factors" in seen.result.arrays:
        remedy = f"Train longer: --epochs {2 * int(seen.settings.get('max_epochs') or 300)}."
    else:
        most = int(seen.settings.get("max_iter") or 100)
        remedy = f"Raise max_iter: --set max_iter={max(3 * most, 100)}; or, if the curve is flat, tol: --set tol=1e-4."
    yield Advice("problem", seen.name, "The fit did not converge.", remedy)


def _one_start(seen: Seen) -> Iterator[Advice]:
    if "states" in seen.result.arrays and seen.settings.get("n_init") == 1:
        yield Advice(
            "hint",
            seen.name,
            "The fit was started once, and the likelihood has several maxima.",
            "Fit with --set n_init=5 or more, and compare the log-likelihoods.",
        )


def _decay(seen: Seen) -> Iterator[Advice]:
    found = seen.parameter("decay_time")
    indicator = None if seen.traces is None else seen.traces.clock.indicator
    if found is None or indicator is None or not np.isfinite(found).any():
        return
    middle, expected = float(np.nanmedian(found)), indicator.decay_time
    if middle * _OFF < expected:
        noisy = seen.settings.get("observation") == "calcium_noisy"
        yield Advice(
            "problem",
            seen.name,
            f"The median decay time is {middle:.2g} s, and {indicator.name} decays in about {expected:.2g} s: "
            "measurement noise is taken for fast calcium.",
            "Leave out the noisiest ROIs, or try --ar-order 2."
            if noisy
            else "Fit with --observation calcium_noisy, or leave out the noisiest ROIs; do not report decay times and "
            "amplitudes of this fit.",
        )
    elif middle > _OFF * expected:
        yield Advice(
            "problem",
            seen.name,
            f"The median decay time is {middle:.2g} s, and {indicator.name} decays in about {expected:.2g} s: slow "
            "drift, neuropil or smoothing is taken for calcium.",
            "Check that traces were not smoothed or denoised; subtract neuropil, and take a shorter baseline window.",
        )


def _amplitude(seen: Seen) -> Iterator[Advice]:
    calibrated = seen.parameter("rate_calibrated")
    if calibrated is not None and calibrated.mean() < 0.5:
        yield Advice(
            "problem",
            seen.name,
            f"Single spikes stand out of the noise in {int(calibrated.sum())} of {len(calibrated)} ROIs only: rate and "
            "spike amplitude trade off.",
            "Report influx (dF/F per s), or rates relative to each ROI's mean, rather than Hz.",
        )


def _few_spikes(seen: Seen) -> Iterator[Advice]:
    rates = seen.result.arrays.get("firing_rates")
    if rates is None or seen.result.sampling_rate is None:
        return
    mean, _ = mean_over_time(rates.values)
    spikes = mean * len(seen.result.time) / seen.result.sampling_rate
    few = int((spikes < _FEW_SPIKES).sum())
    if few > len(spikes) / 3:
        yield Advice(
            "problem" if few > 0.8 * len(spikes) else "hint",
            seen.name,
            f"{few} of {len(spikes)} ROIs are expected to have fired fewer than {_FEW_SPIKES} spikes in all.",
            "Their amplitudes and decay times are little more than a guess. Leave silent ROIs out, or record longer.",
        )


def _short_states(seen: Seen) -> Iterator[Advice]:
    matrix = seen.parameter("transition_matrix")
    if matrix is None:
        return
    frames = 1.0 / np.maximum(1.0 - np.diag(matrix), 1e-12)
    short = np.flatnonzero(frames < _SHORT_VISIT)
    if len(short):
        which = ", ".join(map(str, short))
        yield Advice(
            "problem",
            seen.name,
            f"{_plural('State', short)} {which} last{'s' if len(short) == 1 else ''} under {_SHORT_VISIT:g} frames a "
            "visit: flicker, rather than a state.",
            "Raise stickiness (--set stickiness=100), take fewer states, or mask artefacts.",
        )


def _rare_states(seen: Seen) -> Iterator[Advice]:
    share = seen.parameter("occupancy")
    if share is None:
        return
    rare = np.flatnonzero(share < _RARE)
    if len(rare):
        which = ", ".join(map(str, rare))
        yield Advice(
            "hint",
            seen.name,
            f"{_plural('State', rare)} {which} take{'s' if len(rare) == 1 else ''} up under {_RARE:.0%} of the time.",
            f"Look at those frames: an artefact, or one state too many. Try -k {max(1, len(share) - len(rare))}, and "
            "choose the number by hmm.select_n_states.",
        )


def _drift(seen: Seen) -> Iterator[Advice]:
    if "states" not in seen.result.arrays or "occupancy" not in seen.result.parameters:
        return
    occupancy = np.asarray(seen.result["occupancy"], float)
    share = share_in_first_half(np.asarray(seen.result["states"]).astype(int), len(occupancy))
    common = occupancy > 0.1
    early, late = np.flatnonzero(common & (share > 0.95)), np.flatnonzero(common & (share < 0.05))
    if len(early) and len(late):
        yield Advice(
            "problem",
            seen.name,
            f"State {early[0]} holds the first half of the session and state {late[0]} the second: drift, perhaps.",
            'Read with another baseline (read_nwb(..., baseline="percentile")), and leave out ROIs that drift out of '
            "focus.",
        )


def _unsure(seen: Seen) -> Iterator[Advice]:
    probabilities = seen.result.arrays.get("state_probabilities")
    if probabilities is None or probabilities.values.shape[1] < 2:
        return
    n_frames = probabilities.values.shape[0]
    shown = np.asarray(probabilities.values[: min(n_frames, 200_000)], float)
    sure = float((shown.max(axis=1) > 0.8).mean())
    if sure < 0.7:
        yield Advice(
            "hint",
            seen.name,
            f"Only {100 * sure:.0f} % of frames are in a state with a probability above 0.8.",
            "States overlap: take fewer of them, or use the probabilities rather than the path.",
        )


def _idle_latents(seen: Seen) -> Iterator[Advice]:
    share = seen.parameter("explained_variance_ratio")
    if share is not None and len(share) > 1 and (share < 0.02).any():
        used = int((share >= 0.02).sum())
        yield Advice(
            "hint",
            seen.name,
            f"{len(share) - used} of {len(share)} latents stand for under 2 % of the variance each.",
            f"Try -k {max(used, 1)}, and compare by co-smoothing on held-out neurons (CalciumGPFA.cosmooth).",
        )


def _timescales(seen: Seen) -> Iterator[Advice]:
    scale, rate = seen.parameter("timescale"), seen.result.sampling_rate
    if scale is None or rate is None or seen.result.parameters["timescale"].unit != "s":
        return
    longest = float(np.max(seen.result.segments.lengths)) / rate
    if (scale < 2 / rate).any():
        yield Advice(
            "hint",
            seen.name,
            f"The shortest time scale is {scale.min():.2g} s, under two frames: that process follows noise.",
            "Take fewer latents, or start from longer time scales: --set timescales=0.5.",
        )
    if (scale > longest).any():
        yield Advice(
            "hint",
            seen.name,
            f"The longest time scale is {scale.max():.3g} s, longer than any trial or recording ({longest:.3g} s).",
            "That latent is an offset or drift: look at it before you interpret it.",
        )


def _unused_inputs(seen: Seen) -> Iterator[Advice]:
    inputs = seen.result.arrays.get("inputs")
    if inputs is None:
        return
    shown = np.asarray(inputs.values[:50_000], float)
    idle = int((shown.std(axis=0) < 0.02).sum())
    if idle == shown.shape[1]:
        yield Advice(
            "hint",
            seen.name,
            "No inferred input is used.",
            "The dynamics explain the data without them: fit with --n-inputs 0, which trains faster.",
        )


def _outside_training(seen: Seen) -> Iterator[Advice]:
    inside = seen.parameter("in_training_range")
    if inside is not None and (inside < 0.5).any():
        yield Advice(
            "hint",
            seen.name,
            f"{int((inside < 0.5).sum())} of {len(inside)} ROIs are noisier (or smoother) than what the networks were "
            "trained on.",
            "Do not trust their rates; compare with --model filter.",
        )


def _plural(word: str, which: Any) -> str:
    return word if len(which) == 1 else f"{word}s"


_RULES: tuple[Callable[[Seen], Iterator[Advice]], ...] = (
    _not_converged,
    _decay,
    _amplitude,
    _short_states,
    _drift,
    _few_spikes,
    _rare_states,
    _unsure,
    _one_start,
    _idle_latents,
    _timescales,
    _unused_inputs,
    _outside_training,
)
