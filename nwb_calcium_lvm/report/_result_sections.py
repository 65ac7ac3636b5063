"""The section on one result: how the fit went, states, latents, rates, parameters."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nwb_calcium_lvm import plotting
from nwb_calcium_lvm.plotting._overview import shown_frames
from nwb_calcium_lvm.report._document import Block, Facts, Heading, Section, Table, Text, said
from nwb_calcium_lvm.report._events import Around, around_events
from nwb_calcium_lvm.report._pictures import picture, small_axes
from nwb_calcium_lvm.report._reading import Traces, part_of, rois_in
from nwb_calcium_lvm.report._visits import visit_lengths
from nwb_calcium_lvm.result import InferenceResult

logger = logging.getLogger(__name__)

_PATHS = ("latents", "factors")  # what latent models call them
_RATES = ("firing_rates", "expected_spikes", "trace_means", "state_means")
# Parameters with one number for each ROI: label, unit, and how the stored one becomes what is drawn.
_PER_ROI = {
    "decay_time": ("Decay time", "s", lambda v: v),
    "spike_amplitude": ("Spike amplitude", "dF/F", lambda v: v),
    "noise_variance": ("Noise, sd", "dF/F", np.sqrt),
    "measurement_variance": ("Measurement noise, sd", "dF/F", np.sqrt),
    "baseline": ("Baseline", "dF/F", lambda v: v),
    "noise_level": ("Noise level ν", "%/√Hz", lambda v: v),
}


def result_section(name: str, result: InferenceResult, traces: Traces | None, number: int) -> Section:
    """Return all that there is to see of one result."""
    blocks: list[Block]
    try:
        blocks = _blocks(result, traces)
    except Exception as error:  # files of others hold anything: one odd result does not cost the page
        logger.info("Could not show %s", name, exc_info=True)
        blocks = [Text(f"This result cannot be shown ({type(error).__name__}: {error}).", tone="note")]
    return Section(f"result-{number}", f"Result: {name}", blocks)


def _blocks(result: InferenceResult, traces: Traces | None) -> list[Block]:
    first, stop = shown_frames(result)
    shown = part_of(result, first, stop)
    blocks: list[Block] = [Facts(_about(result), wide=True), *_convergence(result)]
    around = [] if traces is None else around_events(result, traces.clock)
    if "states" in result.arrays and "state_probabilities" in result.arrays:
        blocks += _states(result, shown, traces, around)
    for path in _PATHS:
        if path in result.arrays:
            blocks += _latents(result, shown, path, around)
    blocks += _rates(result, first, stop, traces)
    return blocks + _parameters(result, traces)


def _about(result: InferenceResult) -> list[tuple[str, str]]:
    model = result.model
    pairs = [
        ("model", f"{model.get('name', 'not said')}: {model.get('description', '')}".strip(": ")),
        ("ROIs × frames", f"{len(result.roi_ids):,} × {len(result.time):,}"),
        ("converged", "yes" if result.converged else "no"),
    ]
    if result.segments.trial_ids is not None:
        pairs.append(("trials fitted", said(len(result.segments))))
    if model.get("n_iter"):
        pairs.append(("iterations", said(int(model["n_iter"]))))
    per_sample = score_of(result)
    if per_sample is not None:
        pairs.append(("log-likelihood or bound", f"{per_sample:.4f} nats per sample (frame × ROI)"))
    return pairs


def score_of(result: InferenceResult) -> float | None:
    """Return the log-likelihood (or its bound) per frame and ROI, where the result says it."""
    total = result.model.get("log_likelihood")
    return None if total is None else float(total) / (len(result.time) * max(len(result.roi_ids), 1))


def _convergence(result: InferenceResult) -> list[Block]:
    history = result.model.get("objective_history")
    if history is None or len(np.atleast_1d(history)) < 2:
        return []
    word = "The fit met its tolerance." if result.converged else "The fit stopped before it met its tolerance."
    draw = plotting.training_curves if "factors" in result.arrays else plotting.likelihood_curve
    return [Heading("Convergence"), picture(lambda: draw(result), f"Objective of the fit. {word}", wide=False)]


# -- States -----------------------------------------------------------------------------------------------------------


def _states(
    result: InferenceResult, shown: InferenceResult, traces: Traces | None, around: list[Around]
) -> list[Block]:
    path = np.asarray(result["states"]).astype(int)
    n_states = int(result.arrays["state_probabilities"].values.shape[1])
    visits = visit_lengths(path, result.segments, n_states)
    rate, unit = result.sampling_rate or 1.0, "s" if result.sampling_rate else "frames"
    blocks: list[Block] = [
        Heading("States"),
        _state_table(result, path, visits, rate, unit),
        picture(
            lambda: _over_time(shown, traces), "Traces, the most probable path of states, and their probabilities."
        ),
    ]
    if "transition_matrix" in result.parameters:
        blocks.append(
            picture(
                lambda: plotting.transition_matrix(result),
                "Probability (%) to go from one state (row) to another (column) in one frame.",
                wide=False,
            )
        )
    expected = result["dwell_time"] if "dwell_time" in result.parameters else None
    blocks.append(
        picture(
            lambda: plotting.dwell_times([v / rate for v in visits], unit=unit, expected=expected),
            "Length of each visit to each state (dots), their median (bar)"
            + (", and the mean that the transition matrix gives (cross)." if expected is not None else "."),
            wide=False,
        )
    )
    if {"state_rates", "state_means"} & set(result.parameters):
        what = "Rate" if "state_rates" in result.parameters else "Mean of the trace"
        blocks.append(
            picture(lambda: plotting.rates_by_state(result), f"{what} of each ROI in each state.", wide=False)
        )
    for event in around:
        blocks += _states_around(path, event, n_states)
    return blocks


def _state_table(
    result: InferenceResult, path: NDArray[np.integer], visits: list[NDArray[np.integer]], rate: float, unit: str
) -> Table:
    n_states = len(visits)
    share = 100 * np.bincount(path, minlength=n_states)[:n_states] / max(len(path), 1)
    header = ["state", "% of time", "visits", f"median visit ({unit})"]
    columns: list[list[Any]] = [
        list(range(n_states)),
        [float(s) for s in share],
        [len(v) for v in visits],
        [float(np.median(v) / rate) if len(v) else None for v in visits],
    ]
    if "dwell_time" in result.parameters:
        header.append("mean by the model (s)")
        columns.append([float(v) for v in result["dwell_time"]])
    if "state_rates" in result.parameters:
        header.append(f"mean rate ({result.parameters['state_rates'].unit})")
        columns.append([float(v) for v in np.mean(result["state_rates"], axis=0)])
    return Table(header, list(zip(*columns, strict=True)))


def _over_time(shown: InferenceResult, traces: Traces | None) -> Figure:
    recording = None if traces is None else traces.at(np.asarray(shown.time, float), shown.roi_ids)
    n_states = int(shown["state_probabilities"].shape[1])
    clock, label = _clock(shown)
    heights = [0.35, 0.9] if recording is None else [3.6, 0.35, 0.9]
    figure = Figure(figsize=(8.5, sum(heights) + 1.0), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    if recording is not None:
        values = np.where(recording.mask, recording.dff, np.nan)
        unit = "dF/F" if recording.units == "dff" else ""
        plotting.traces(values, time=clock, ids=recording.roi_ids, unit=unit, ax=axes[0])
    plotting.states(shown["states"], clock, n_states=n_states, legend=False, ax=axes[-2])
    axes[-2].set_ylabel("State", rotation=0, ha="right", va="center")
    plotting.state_probabilities(shown["state_probabilities"], clock, ax=axes[-1])
    for ax in axes:
        ax.set_xlabel("")
    for filled in (*axes[-1].collections, *axes[-2].collections):
        filled.set_rasterized(True)  # thousands of corners, in colours that no page changes
    axes[-1].set_xlabel(label)
    return figure


def _states_around(path: NDArray[np.integer], event: Around, n_states: int) -> list[Block]:
    states = np.where(event.frames >= 0, path[event.frames], -1)
    whole = states[(states >= 0).all(axis=1)]
    name, some = event.name.replace("_", " "), _of_trials(event)
    blocks: list[Block] = [
        picture(
            lambda: plotting.states_by_trial(states, event.time, n_states=n_states, ax=small_axes()),
            f"State of each trial around “{name}”{some}.",
            wide=False,
        )
    ]
    if len(whole) >= 2:
        blocks.append(
            picture(
                lambda: plotting.states_around_event(whole, event.time, n_states=n_states, ax=small_axes()),
                f"Fraction of trials in each state around “{name}”.",
                wide=False,
            )
        )
    return blocks


def _of_trials(event: Around) -> str:
    return f" ({len(event.frames)} of {event.n_trials} trials)" if len(event.frames) < event.n_trials else ""


# -- Latents ----------------------------------------------------------------------------------------------------------


def _latents(result: InferenceResult, shown: InferenceResult, name: str, around: list[Around]) -> list[Block]:
    one = name.removesuffix("s").capitalize()
    n_latents = int(result.arrays[name].values.shape[1])
    clock, label = _clock(shown)

    def over_time(which: str) -> Any:
        std = shown[f"{which}_std"] if f"{which}_std" in shown.arrays else None
        ax = plotting.latents(shown[which], std, name=which, time=clock, segments=shown.segments)
        ax.set_xlabel(label)
        return ax

    blocks: list[Block] = [
        Heading(f"{one}s"),
        picture(lambda: over_time(name), f"{one}s over time, with two standard deviations."),
    ]
    if n_latents >= 3:
        blocks.append(
            picture(
                lambda: plotting.latent_trajectories(shown),
                f"The first three {name} against each other, from dark (first) to bright (last).",
                wide=False,
            )
        )
    if "loadings" in result.parameters:
        blocks.append(picture(lambda: plotting.loadings(result), f"Loadings of the ROIs on {name}.", wide=False))
    if "explained_variance_ratio" in result.parameters:
        share = 100 * np.asarray(result["explained_variance_ratio"], float)
        rows = [[i, float(v)] for i, v in enumerate(share)]
        blocks.append(Table((one.lower(), "% of the prior variance"), rows))
    if "timescale" in result.parameters:
        scale = result.parameters["timescale"]
        rows = [[i, float(v)] for i, v in enumerate(np.asarray(scale.values, float))]
        blocks.append(Table(("process", f"time scale ({scale.unit})"), rows))
    for event in around:
        values = _at_frames(result.arrays[name].values, event.frames)
        blocks.append(
            picture(
                lambda values=values, event=event: plotting.mean_around_event(
                    values, event.time, label=one, ax=small_axes()
                ),
                f"{one}s around “{event.name.replace('_', ' ')}”, averaged over trials{_of_trials(event)}, with one "
                "standard error.",
                wide=False,
            )
        )
    if "inputs" in result.arrays:
        if result.segments.trial_ids is not None and len(result.segments) <= 400:
            blocks.append(
                picture(lambda: plotting.inferred_inputs(_all_of(result, "inputs")), "Inferred inputs, a trial a row.")
            )
        else:
            blocks.append(picture(lambda: over_time("inputs"), "Inferred inputs over time."))
    return blocks


def _all_of(result: InferenceResult, name: str) -> InferenceResult:
    """The result, with only that array over time, in memory."""
    return part_of(
        InferenceResult(
            **{
                **{k: getattr(result, k) for k in result.__dataclass_fields__},
                "arrays": {name: result.arrays[name]},
            }
        ),
        0,
        len(result.time),
    )


def _at_frames(values: Any, frames: NDArray[np.integer]) -> NDArray[np.floating]:
    """Return values (trial, time, column) at frames (trial, time); NaN where the frame is -1."""
    needed = np.unique(frames[frames >= 0])
    rows = np.asarray(values[needed], float)
    out = np.full((*frames.shape, rows.shape[1]), np.nan)
    inside = frames >= 0
    out[inside] = rows[np.searchsorted(needed, frames[inside])]
    return out


# -- Rates and parameters ---------------------------------------------------------------------------------------------


def _rates(result: InferenceResult, first: int, stop: int, traces: Traces | None) -> list[Block]:
    name = next((k for k in _RATES if k in result.arrays), None)
    if name is None or traces is None:
        return []
    recording = traces.at(np.asarray(result.time[first:stop], float), result.roi_ids)
    if recording is None:
        return []
    shown = part_of(result, first, stop, rois_in(result, recording))
    clock, label = _clock(shown)

    def over_traces() -> Any:
        from dataclasses import replace

        ax = plotting.rates_against_traces(replace(shown, time=clock), recording)
        ax.set_xlabel(label)
        return ax

    what = {"firing_rates": "Rates", "expected_spikes": "Expected spikes"}.get(name, "What the model explains")
    heading = "Rates and traces" if name in ("firing_rates", "expected_spikes") else "Explained traces"
    blocks: list[Block] = [
        Heading(heading),
        picture(over_traces, f"{what} (orange) against traces (grey), each to its own height."),
    ]
    if name == "firing_rates" and "states" not in result.arrays and not any(p in result.arrays for p in _PATHS):
        busiest = int(np.nanargmax(np.asarray(shown[name], float).mean(axis=0)))
        blocks.append(
            picture(
                lambda: plotting.spike_rates(shown, recording, roi=busiest),
                f"The first minute shown of ROI {recording.roi_ids[busiest]}: trace above, rate below.",
            )
        )
    return blocks


def _parameters(result: InferenceResult, traces: Traces | None) -> list[Block]:
    indicator = None if traces is None else traces.clock.indicator
    rows, pictures = [], []
    for name, (label, unit, change) in _PER_ROI.items():
        if name not in result.parameters or result.parameters[name].dims != ("roi",):
            continue
        with np.errstate(invalid="ignore"):
            values = np.asarray(change(np.asarray(result[name], float)), float)
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        rows.append([f"{label} ({unit})", *(float(np.quantile(known, q)) for q in (0.1, 0.5, 0.9))])
        if name == "baseline":
            continue
        reference = None
        if indicator is not None:
            reference = {"decay_time": indicator.decay_time, "spike_amplitude": indicator.amplitude}.get(name)
        told = f" {indicator.name}: dashed." if reference is not None and indicator is not None else ""
        pictures.append(
            picture(
                lambda values=values, label=f"{label} ({unit})", reference=reference: plotting.distribution(
                    values, label=label, reference=reference, reference_label=getattr(indicator, "name", "expected")
                ),
                f"{label} of each ROI.{told}",
                wide=False,
            )
        )
    if not rows:
        return []
    return [Heading("Parameters"), Table(("over ROIs", "10 %", "median", "90 %"), rows, alone=True), *pictures]


def _clock(shown: InferenceResult) -> tuple[NDArray[np.floating], str]:
    """Times of shown frames and what they are called; several segments stand side by side."""
    time, rate = np.asarray(shown.time, float), shown.sampling_rate
    if len(shown.segments) == 1 or rate is None or shown.time_unit != "s":
        single = shown.time_unit == "s" and len(shown.segments) == 1
        return (time, "Time (s)") if single else (np.arange(float(len(time))), "Frame")
    what = "trials" if shown.segments.trial_ids is not None else "segments"
    return np.arange(len(time)) / rate, f"Time (s), {what} side by side"
