"""The sections on the recording: what it is, and how good the traces of each ROI are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nwb_calcium_lvm import plotting
from nwb_calcium_lvm.report._document import Block, Facts, Picture, Section, Table, Text, said
from nwb_calcium_lvm.report._pictures import picture, small_axes
from nwb_calcium_lvm.report._reading import Traces

_MOST_ROWS = 500  # of the table of ROIs
_SHOWN = 12  # traces drawn


def recording_section(session: Mapping[str, Mapping[str, str]], traces: Traces | None, problem: str | None) -> Section:
    """Return what the file is about: session, subject, indicator, clock, ROIs, trials."""
    blocks: list[Block] = []
    if traces is not None:
        blocks.append(Facts(_measured(traces)))
    if problem is not None:
        blocks.append(Text(f"The traces could not be read, so nothing is said of them: {problem}", tone="note"))
    blocks += [Facts(list(facts.items()), title=heading) for heading, facts in session.items()]
    if traces is not None:
        shown = traces.recording
        start, stop = (float(traces.clock.timestamps[traces.frames[i]]) for i in (0, -1))
        unit = "s" if traces.clock.has_clock else "frames"
        few = len(traces.frames) < traces.clock.n_frames
        caption = f"Traces of the {min(_SHOWN, shown.n_rois)} ROIs that vary most for their noise" + (
            f", {said(start)} to {said(stop)} {unit}." if few else "."
        )
        blocks.append(picture(lambda: _draw(traces), caption))
    return Section("recording", "Recording", blocks)


def _draw(traces: Traces) -> Any:
    shown, most = traces.recording, 1200
    stop = min(len(traces.frames), most)
    clock = traces.clock.timestamps[traces.frames[:stop]]
    values = np.where(shown.mask[:stop], shown.dff[:stop], np.nan)
    best = np.sort(np.argsort(-shown.roi_metadata["variability"], kind="stable")[:_SHOWN])
    unit = "dF/F" if shown.units == "dff" else ""
    ax = plotting.traces(values, roi=best, time=clock, ids=shown.roi_ids, unit=unit)
    ax.set_xlabel("Time (s)" if traces.clock.has_clock else "Frame")
    return ax


def _measured(traces: Traces) -> list[tuple[str, str]]:
    clock, rate = traces.clock, traces.clock.sampling_rate
    pairs = [
        ("ROIs", said(traces.n_rois)),
        ("frames", said(clock.n_frames)),
        ("frames per second", "not known" if rate is None else f"{rate:.6g}"),
        ("duration", "not known" if rate is None else _duration(clock.n_frames / rate)),
        ("indicator", "not known" if clock.indicator is None else _indicator(clock.indicator)),
        ("traces", {"dff": "dF/F"}.get(traces.recording.units, "of unknown unit")),
    ]
    if len(clock.segments) > 1:
        pairs.append(("runs of frames without a gap", said(len(clock.segments))))
    if clock.trials is None:
        pairs.append(("trials", "none"))
    else:
        others = [k for k in clock.trials if k not in ("id", "start_time", "stop_time")]
        told = f" with {', '.join(others)}" if others else ""
        pairs.append(("trials", f"{len(clock.trials['id'])}{told}"))
    return pairs


def _indicator(indicator: Any) -> str:
    return f"{indicator.name} (a spike raises dF/F by about {indicator.amplitude:g}, decay {indicator.decay_time:g} s)"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest:.0f} s" if minutes else f"{rest:.3g} s"


def quality_section(traces: Traces) -> Section:
    """Return how good the traces are: noise, dead and saturated cells, a picture and a table."""
    quality = traces.quality
    noise = quality.noise_level
    blocks: list[Block] = [Facts(_summary(traces), wide=True)]
    if np.isfinite(noise).any():
        pictures: list[Picture | Text] = [
            picture(
                lambda: plotting.noise_levels(noise, flagged=quality.saturated, ax=small_axes()),
                "Noise level ν of each ROI: the median step between frames over √(frame rate), in %. It does not "
                "depend on the frame rate."
                + (" Orange: the trace stays at its ceiling." if quality.saturated.any() else ""),
                wide=False,
            ),
            picture(
                lambda: plotting.distribution(quality.peak, label="Peak dF/F (99.9 % of frames are below)"),
                "Largest transients of each ROI.",
                wide=False,
            ),
        ]
        blocks += pictures
    blocks.append(_table(traces))
    blocks += [Text(note, tone="note") for note in traces.notes]
    return Section("quality", "Quality of each ROI", blocks)


def _summary(traces: Traces) -> list[tuple[str, str]]:
    quality = traces.quality
    noise = quality.noise_level[np.isfinite(quality.noise_level)]
    pairs: list[tuple[str, str]] = []
    if len(noise):
        low, middle, high = np.quantile(noise, [0.1, 0.5, 0.9])
        pairs.append(("noise level ν", f"median {middle:.2g} %/√Hz; {low:.2g} to {high:.2g} in 80 % of ROIs"))
        pairs.append(("ROIs with ν above 8 (poor)", said(int((noise > 8).sum()))))
    pairs.append(("dead ROIs (constant, or never observed)", said(int(quality.dead.sum()))))
    pairs.append(("saturated ROIs (trace stays at its ceiling)", said(int(quality.saturated.sum()))))
    missing = 100 * (1 - float(np.nanmean(quality.observed)))
    if missing > 0:
        pairs.append(("samples not observed", f"{missing:.2g} %"))
    return pairs


def _table(traces: Traces) -> Table:
    quality = traces.quality
    worst_first = np.lexsort((-np.nan_to_num(quality.noise_level), ~quality.saturated, ~quality.dead))
    flags = np.where(quality.dead, "dead", np.where(quality.saturated, "saturated", ""))
    rows = [
        [
            str(quality.roi_ids[i]),
            float(quality.noise_level[i]),
            float(quality.peak[i]),
            float(100 * quality.observed[i]),
            float(100 * quality.at_ceiling[i]),
            str(flags[i]),
        ]
        for i in worst_first[:_MOST_ROWS]
    ]
    n = len(worst_first)
    title = f"All {n:,} ROIs, the worst first" if n <= _MOST_ROWS else f"The worst {_MOST_ROWS} of {n:,} ROIs"
    header = ("ROI", "ν (%/√Hz)", "peak", "observed (%)", "at ceiling (%)", "")
    return Table(header, rows, title=title, folded=True)
