"""``nwb-calcium-lvm spikes`` and ``train-s2s``: spike rates into NWB, and new weights from recordings with spikes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import typer

from nwb_calcium_lvm.cli._console import Say, table
from nwb_calcium_lvm.cli._fit import Output
from nwb_calcium_lvm.cli._info import facts
from nwb_calcium_lvm.cli._reading import Reading
from nwb_calcium_lvm.exceptions import DataError, NameClashError
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray

MODELS = ("s2s", "filter", "oasis")


def spike_estimator(model: str, weights: str | None, lag: float | None) -> Any:
    """Return the estimator of that name, ready to be fitted or used; ``lag`` None for its own default."""
    from nwb_calcium_lvm.spikes import FilterSpikeEstimator, OASISSpikeEstimator, S2SSpikeEstimator

    if model not in MODELS:
        raise typer.BadParameter(f"--model {model}: expected one of {', '.join(MODELS)}.")
    options: dict[str, Any] = {} if lag is None else {"lag": lag}
    if model == "s2s":
        return S2SSpikeEstimator.from_pretrained(weights or "default", **options)
    if weights is not None:
        raise typer.BadParameter(f"--weights is for --model s2s: {model} has none.")
    return FilterSpikeEstimator(**options) if model == "filter" else OASISSpikeEstimator(**options)


def run_spikes(reading: Reading, estimator: Any, output: Output, say: Say, *, dry_run: bool = False) -> None:
    """Infer spike rates of every ROI and write them."""
    from nwb_calcium_lvm.io import plan_write, write_nwb, write_suite2p

    if output.in_place and reading.is_suite2p:
        raise typer.BadParameter(
            f"{reading.path} is a Suite2p folder: --in-place is for NWB files. Use --out, or none."
        )
    if output.beside_suite2p and not reading.is_suite2p:
        raise typer.BadParameter(f"--write-suite2p is for Suite2p folders, and {reading.path} is not one.")
    recording = reading.read()
    say(f"Read {recording!r}")
    source = recording if reading.is_suite2p else None
    empty = _placeholder(recording, type(estimator).__name__)
    plan = plan_write(empty, output.path, source=source, name=output.name, overwrite=output.overwrite)
    there = sorted(reading.path.rglob(f"{output.rates_name}.npy")) if output.beside_suite2p else []
    if there:
        raise NameClashError(f"{there[0]} exists and is not overwritten. Pass --name for another name.")
    if dry_run:
        for line in [*facts(recording), f"Would write {plan.path}, among others:", *plan.objects]:
            say(f"  {line}")
        say("Nothing was written (--dry-run).")
        return
    started = time.monotonic()
    if not hasattr(estimator, "networks_"):
        estimator.fit(recording)
    result = estimator.infer(recording)
    say(_summary(result, time.monotonic() - started))
    written = write_nwb(result, output.path, source=source, name=output.name, overwrite=output.overwrite)
    say(f"Wrote {written} (result {output.name})")
    if output.beside_suite2p:
        beside = write_suite2p(result, reading.path, name=output.rates_name)
        say(f"Wrote {beside if beside.is_file() else f'{output.rates_name}.npy in each planeN of {beside}'}")


def run_train_s2s(
    folder: Path,
    out: Path,
    checkpoints: Path,
    config: str,
    settings: dict[str, Any],
    leave_out: list[str],
    seed: int,
    say: Say,
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
    rates, nu = np.asarray(result["firing_rates"]), np.asarray(result["noise_level"], float)
    known = np.isfinite(rates).all(axis=0)
    head = f"Rates of {known.sum()} of {known.size} ROIs in {seconds:.1f} s"
    if not known.any():
        return head
    mean = rates[:, known].mean(axis=0)
    rows = [
        ["mean rate (Hz)", *(float(f"{np.quantile(mean, q):.3g}") for q in (0.1, 0.5, 0.9))],
        ["noise level", *(float(f"{np.nanquantile(nu[known], q):.3g}") for q in (0.1, 0.5, 0.9))],
    ]
    return f"{head}\n{table(rows, ['over ROIs', '10 %', 'median', '90 %'])}"


def _placeholder(recording: Recording, name: str) -> InferenceResult:
    """Return a result of the right shape that holds nothing, to ask where a result would go."""
    nothing = np.broadcast_to(np.float32(0.0), recording.shape)
    dims = ("time", "roi")
    return InferenceResult(
        arrays={
            "firing_rates": NamedArray(nothing, dims, "Hz", "Spikes per second."),
            "expected_spikes": NamedArray(nothing, dims, "spikes", "Expected number of spikes in each frame."),
        },
        parameters={},
        time=recording.timestamps,
        time_unit="s" if recording.has_clock else "frames",
        sampling_rate=recording.sampling_rate,
        is_regular=recording.is_regular and len(recording.segments) == 1,
        roi_ids=recording.roi_ids,
        segments=recording.segments,
        model={"name": name, "description": "", "hyperparameters": {}},
        converged=True,
        source=recording.source,
        metadata=recording.metadata,
        roi_metadata=recording.roi_metadata,
    )
