"""``nwb-calcium-lvm spikes`` and ``train-s2s``: spike rates into NWB, and new weights from recordings with spikes."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import typer

from nwb_calcium_lvm._core.base import is_fitted
from nwb_calcium_lvm.cli._console import Say, table
from nwb_calcium_lvm.cli._fit import Output
from nwb_calcium_lvm.cli._info import facts
from nwb_calcium_lvm.cli._reading import Reading
from nwb_calcium_lvm.exceptions import DataError, NameClashError
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray
from nwb_calcium_lvm.stream import RecordingStream

_SLAB = 2**22  # values looked at together
MODELS = ("s2s", "vae", "filter", "oasis")


def spike_estimator(model: str, weights: str | None, lag: float | None) -> Any:
    """Return the estimator of that name, ready to be fitted or used; ``lag`` None for its own default."""
    from nwb_calcium_lvm.spikes import FilterSpikeEstimator, OASISSpikeEstimator, S2SSpikeEstimator, VAESpikeEstimator

    if model not in MODELS:
        raise typer.BadParameter(f"--model {model}: expected one of {', '.join(MODELS)}.")
    options: dict[str, Any] = {} if lag is None else {"lag": lag}
    if model == "s2s":
        return S2SSpikeEstimator.from_pretrained(weights or "default", **options)
    if model == "vae":
        return VAESpikeEstimator.from_pretrained(weights or "ml_phys", **options)
    if weights is not None:
        raise typer.BadParameter(f"--weights is for --model s2s or vae: {model} has none.")
    return FilterSpikeEstimator(**options) if model == "filter" else OASISSpikeEstimator(**options)


def run_spikes(
    reading: Reading,
    estimator: Any,
    output: Output,
    say: Say,
    *,
    dry_run: bool = False,
    spike_times: bool = False,
    verbose: int = 0,
) -> None:
    """Infer spike rates of every ROI and write them; recordings that are large for the memory block by block."""
    from nwb_calcium_lvm.io import plan_write, write_nwb, write_suite2p

    if output.in_place and reading.is_suite2p:
        raise typer.BadParameter(
            f"{reading.path} is a Suite2p folder: --in-place is for NWB files. Use --out, or none."
        )
    if spike_times and not hasattr(estimator, "predict_spikes"):
        raise typer.BadParameter("--spike-times is for --model s2s: nothing says how sure spikes of others are.")
    if output.beside_suite2p and not reading.is_suite2p:
        raise typer.BadParameter(f"--write-suite2p is for Suite2p folders, and {reading.path} is not one.")
    recording, stream = _opened(reading, output, estimator.takes_any_rois)
    say(f"Read {recording!r}" if recording is not None else f"Reading {stream!r}, some ROIs at a time")
    source = recording if reading.is_suite2p else None
    empty = _placeholder(stream, type(estimator).__name__)
    plan = plan_write(empty, output.path, source=source, name=output.name, overwrite=output.overwrite)
    there = sorted(reading.path.rglob(f"{output.rates_name}.npy")) if output.beside_suite2p else []
    if there:
        raise NameClashError(f"{there[0]} exists and is not overwritten. Pass --name for another name.")
    if dry_run:
        for line in [*facts(recording or stream.frames), f"Would write {plan.path}, among others:", *plan.objects]:
            say(f"  {line}")
        say("Nothing was written (--dry-run).")
        return
    started = time.monotonic()
    if not is_fitted(estimator):
        estimator.fit(stream.frames if recording is None else recording)  # deconvolution learns nothing from traces
    if estimator.takes_any_rois:
        options: dict[str, Any] = {"stream": recording is None, "scratch": plan.path.parent, "spikes": spike_times}
        result = estimator.infer(stream, **options, verbose=verbose)
    else:
        result = estimator.infer(recording)
    say(_summary(result, time.monotonic() - started))
    written = write_nwb(
        result, output.path, source=source, name=output.name, overwrite=output.overwrite, verbose=verbose
    )
    say(f"Wrote {written} (result {output.name})")
    if source is None and reading.is_suite2p:
        say("The traces themselves are not in it: they stay in the folder.")
    if output.beside_suite2p:
        beside = write_suite2p(result, reading.path, name=output.rates_name)
        say(f"Wrote {beside if beside.is_file() else f'{output.rates_name}.npy in each planeN of {beside}'}")


def _opened(reading: Reading, output: Output, in_parts: bool) -> tuple[Recording | None, RecordingStream]:
    """Read the recording, unless it is large and can be taken in parts: then only open it."""
    from nwb_calcium_lvm.spikes.streaming import LARGE

    with warnings.catch_warnings(action="ignore"):  # whichever way it is read, that says what is odd
        n_bytes = reading.stream().n_bytes
    if in_parts and n_bytes > LARGE:
        return None, reading.stream((output.path or reading.path).absolute().parent)
    recording = reading.read()
    return recording, RecordingStream.of(recording)


def run_train_s2s(
    folder: Path,
    out: Path,
    checkpoints: Path,
    config: str,
    settings: dict[str, Any],
    leave_out: list[str],
    seed: int,
    say: Say,
    *,
    dry_run: bool = False,
) -> None:
    """Train networks on a folder of recordings with known spikes, and write their weights."""
    from nwb_calcium_lvm.io import read_ground_truth
    from nwb_calcium_lvm.spikes import S2SSpikeEstimator
    from nwb_calcium_lvm.spikes.configs import CONFIGS

    if config not in CONFIGS:
        raise typer.BadParameter(f"--config {config}: expected one of {', '.join(CONFIGS)}.")
    if out.suffix != ".npz":
        raise typer.BadParameter(f"--out {out}: expected a name that ends in .npz.")
    try:
        chosen = CONFIGS[config].changed(**settings)
    except TypeError as error:
        raise typer.BadParameter(str(error)) from None
    neurons = [n for n in read_ground_truth(folder) if not n.dataset.startswith(tuple(leave_out))]
    if not neurons:
        raise DataError(f"Nothing of {folder} is left to train on after --leave-out {' '.join(leave_out)}.")
    sets = sorted({n.dataset for n in neurons})
    seconds = sum(n.recording.n_frames / (n.recording.sampling_rate or 1.0) for n in neurons)
    say(f"Read {len(neurons)} neurons of {len(sets)} data sets, {seconds / 3600:.1f} h: {', '.join(sets)}")
    if dry_run:
        say(f"Would train {chosen.n_members} networks, {chosen.training.steps} steps each, with checkpoints in")
        say(f"  {checkpoints}, and write {out}.")
        say("Nothing was written (--dry-run).")
        return
    say(f"Training {chosen.n_members} networks, {chosen.training.steps} steps each; checkpoints in {checkpoints}")
    estimator = S2SSpikeEstimator(config=chosen, random_state=seed, checkpoint_dir=checkpoints, verbose=1)
    started = time.monotonic()
    with _logged(say):
        estimator.fit(neurons)
    estimator.card_ = {"data_sets": sets, "n_neurons": len(neurons), "hours": round(seconds / 3600, 2), "seed": seed}
    estimator.save_weights(out)
    found = estimator.score([n.recording for n in neurons], [[n.spikes] for n in neurons], metric="smooth_pearson")
    say(f"Trained in {(time.monotonic() - started) / 60:.1f} min; on the neurons trained on, r = {found:.3f} at 50 ms")
    say(f"Wrote {out}: S2SSpikeEstimator.from_pretrained({str(out)!r}), or spikes --weights {out}")


@contextmanager
def _logged(say: Say) -> Iterator[None]:
    """Show what training reports."""

    class Echo(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"  {record.getMessage()}")

    logger = logging.getLogger("nwb_calcium_lvm.spikes")
    handler, level = Echo(level=logging.INFO), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _summary(result: InferenceResult, seconds: float) -> str:
    mean, nu = _mean_over_time(result["firing_rates"]), np.asarray(result["noise_level"], float)
    known = np.isfinite(mean)
    head = f"Rates of {known.sum()} of {known.size} ROIs in {seconds:.1f} s"
    if not known.any():
        return head
    rows = [
        ["mean rate (Hz)", *(float(f"{np.quantile(mean[known], q):.3g}") for q in (0.1, 0.5, 0.9))],
        ["noise level", *(float(f"{np.nanquantile(nu[known], q):.3g}") for q in (0.1, 0.5, 0.9))],
    ]
    return f"{head}\n{table(rows, ['over ROIs', '10 %', 'median', '90 %'])}"


def _mean_over_time(values: Any) -> np.ndarray:
    """Return the mean of each ROI of an array (time, roi) that may be on disk."""
    step = max(_SLAB // max(values.shape[1], 1), 1)
    sums = [np.asarray(values[a : a + step]).sum(axis=0, dtype=float) for a in range(0, values.shape[0], step)]
    return np.sum(sums, axis=0) / values.shape[0]


def _placeholder(stream: RecordingStream, name: str) -> InferenceResult:
    """Return a result of the right shape that holds nothing, to ask where a result would go."""
    from nwb_calcium_lvm.spikes.streaming import ARRAYS

    frames = stream.frames
    nothing = np.broadcast_to(np.float32(0.0), stream.shape)
    return InferenceResult(
        arrays={key: NamedArray(nothing, ("time", "roi"), *facts) for key, facts in ARRAYS.items()},
        parameters={},
        time=frames.timestamps,
        time_unit="s" if frames.has_clock else "frames",
        sampling_rate=frames.sampling_rate,
        is_regular=frames.is_regular and len(frames.segments) == 1,
        roi_ids=stream.roi_ids,
        segments=frames.segments,
        model={"name": name, "description": "", "hyperparameters": {}},
        converged=True,
        source=stream.source,
        metadata=frames.metadata,
        roi_metadata=stream.roi_metadata,
    )
