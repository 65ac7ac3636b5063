"""``nwb-calcium-lvm fit``: read, check that the result can be written, fit, write, draw."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import typer

from nwb_calcium_lvm.cli._console import Say, table
from nwb_calcium_lvm.cli._info import facts
from nwb_calcium_lvm.cli._reading import Reading
from nwb_calcium_lvm.exceptions import NameClashError
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray

if TYPE_CHECKING:  # what it imports takes a second
    from nwb_calcium_lvm.io.nwb_write import Preview


@dataclass(frozen=True)
class Output:
    """Where results go.

    Parameters
    ----------
    path : Path, optional
        NWB file; None: beside the source.
    name : str
        Name of the result.
    overwrite : bool
        Replace an earlier result of that name, and the picture.
    plot : Path, optional
        Picture; None: beside the NWB file.
    with_plot : bool
        Whether to draw at all.
    beside_suite2p : bool
        Whether rates go beside the Suite2p planes, too.
    in_place : bool
        Whether ``path`` is the source.
    schema : {"extension", "core"}
        NWB types to use.
    """

    path: Path | None
    name: str
    overwrite: bool = False
    plot: Path | None = None
    with_plot: bool = True
    beside_suite2p: bool = False
    in_place: bool = False
    schema: str = "extension"

    @property
    def rates_name(self) -> str:
        """Name of the rates beside Suite2p's own files, without ``.npy``."""
        return f"{self.name}_rates"

    def picture(self, nwb: Path) -> Path:
        """Return the path of the picture."""
        return self.plot if self.plot is not None else nwb.with_name(f"{nwb.stem}_{self.name}.png")


def parameters_of(given: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Return the estimator's parameters: those of the command's own options, and those of ``--set``.

    Values of ``--set`` are JSON (numbers, true, false, null), or else text.
    """
    parameters = {key: value for key, value in given.items() if value is not None}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise typer.BadParameter(f"--set {setting}: expected NAME=VALUE, such as --set stickiness=50.")
        if key in parameters:
            raise typer.BadParameter(f"{key} is set twice, the second time by --set {setting}.")
        try:
            parameters[key] = json.loads(text)
        except json.JSONDecodeError:
            parameters[key] = text
    return parameters


class Model(NamedTuple):
    """What the command needs to know of a model.

    Attributes
    ----------
    name : str
        Public name of the estimator's class.
    checks : str
        Module whose ``check_parameters`` refuses arguments that make no sense.
    aim : callable
        Says in a few words what an estimator would be fitted for.
    arrays : callable
        Empty arrays of a result, from a recording and an estimator.
    summary : callable
        Says what a fit has found, from the result and the seconds it took.
    picture : str
        Function of :mod:`nwb_calcium_lvm.plotting` that draws the result.
    """

    name: str
    checks: str
    aim: Callable[[Any], str]
    arrays: Callable[[Recording, Any], dict[str, NamedArray]]
    summary: Callable[[InferenceResult, float], str]
    picture: str


def run_fit(
    model: Model, reading: Reading, parameters: dict[str, Any], output: Output, say: Say, *, dry_run: bool = False
) -> None:
    """Fit a model to what is read, write the result and draw it."""
    if output.in_place and reading.is_suite2p:
        raise typer.BadParameter(
            f"{reading.path} is a Suite2p folder: --in-place is for NWB files. Use --out, or none."
        )
    if output.beside_suite2p and not reading.is_suite2p:
        raise typer.BadParameter(f"--write-suite2p is for Suite2p folders, and {reading.path} is not one.")
    estimator = _estimator(model, parameters)
    recording = reading.read()
    say(f"Read {recording!r}")
    # Whatever forbids writing is found out before the fit, which may take an hour, not after.
    source = recording if reading.is_suite2p else None
    plan = _plan(placeholder(model, recording, estimator), output, source)
    picture = output.picture(plan.path)
    if output.with_plot and picture.exists() and not output.overwrite:
        raise NameClashError(f"{picture} exists. Pass --overwrite to replace it, or --plot another.png, or --no-plot.")
    there = sorted(reading.path.rglob(f"{output.rates_name}.npy")) if output.beside_suite2p else []
    if there:
        raise NameClashError(f"{there[0]} exists and is not overwritten. Pass --name for another name.")
    if dry_run:
        _say_plan(model, recording, estimator, plan, picture if output.with_plot else None, say)
        return
    started = time.monotonic()
    estimator.fit(recording)
    result = estimator.infer(recording)
    say(model.summary(result, time.monotonic() - started))
    _write(model, result, recording, reading, output, source, say, verbose=estimator.verbose)


def summary(result: InferenceResult, seconds: float) -> str:
    """Return what a fit has found, in words and a table of states."""
    occupancy, stay = result["occupancy"], np.diag(result["transition_matrix"])
    dwell = result["dwell_time"] if "dwell_time" in result.parameters else 1.0 / np.maximum(1.0 - stay, 1e-12)
    unit = "s" if "dwell_time" in result.parameters else "frames"
    columns: list[Any] = [range(len(occupancy)), (100.0 * occupancy).tolist(), np.asarray(dwell).tolist()]
    header = ["state", "% of time", f"mean visit ({unit})"]
    if "state_rates" in result.parameters:
        rates = result.parameters["state_rates"]
        columns.append(np.asarray(rates.values).mean(axis=0).tolist())
        header.append(f"mean rate ({rates.unit})")
    rows = [
        [value if isinstance(value, int) else float(f"{value:.3g}") for value in row]
        for row in zip(*columns, strict=True)
    ]
    return f"{_status(result, seconds)}\n{table(rows, header)}"


def latents_summary(result: InferenceResult, seconds: float) -> str:
    """Return what a fit of smooth latents has found, in words and a table of latents and processes."""
    scale = result.parameters["timescale"]
    shares, lengths = 100.0 * result["explained_variance_ratio"], np.asarray(scale.values)
    pairs = enumerate(zip(shares, lengths, strict=True))
    rows = [[i, float(f"{share:.3g}"), float(f"{length:.3g}")] for i, (share, length) in pairs]
    header = ["latent / process", "latent: % of variance", f"process: time scale ({scale.unit})"]
    return f"{_status(result, seconds)}\n{table(rows, header)}"


def dynamics_summary(result: InferenceResult, seconds: float) -> str:
    """Return what a training has found: the bound on windows left out, and the decay of calcium."""
    bounds = np.asarray(result.model["objective_history"])
    lines = [
        _status(result, seconds, "epochs"),
        f"Bound on windows left out at the end: {bounds[-1]:.4g} nats per sample",
    ]
    if "decay_time" in result.parameters:
        low, middle, high = np.quantile(result["decay_time"], [0.25, 0.5, 0.75])
        lines.append(f"Decay of calcium: {middle:.3g} s in the median ROI, {low:.3g} to {high:.3g} s in half of them")
    return "\n".join(lines)


def _status(result: InferenceResult, seconds: float, unit: str = "iterations") -> str:
    status = "converged" if result.converged else "did not converge"
    return f"{result.model['name']} {status} after {result.model['n_iter']} {unit}, {seconds:.1f} s"


def _nothing(n_frames: int, n: int, last: str, unit: str, description: str, dtype: str = "f8") -> NamedArray:
    return NamedArray(np.broadcast_to(np.zeros((), dtype), (n_frames, n)), ("time", last), unit, description)


def _arrays_of_hmm(recording: Recording, estimator: Any) -> dict[str, NamedArray]:
    t, n = recording.shape
    return {
        "states": NamedArray(np.zeros(t, int), ("time",), "state", "Path of states."),
        "state_probabilities": _nothing(t, estimator.n_states, "state", "probability", "Posterior."),
        "firing_rates": _nothing(t, n, "roi", "Hz", "Firing rates.", "f4"),
        "influx": _nothing(t, n, "roi", "1/s", "Influx.", "f4"),
        "expected_spikes": _nothing(t, n, "roi", "spikes", "Spikes."),
        "expected_spikes_variance": _nothing(t, n, "roi", "spikes^2", "Their variance."),
    }


def _arrays_of_gpfa(recording: Recording, estimator: Any) -> dict[str, NamedArray]:
    t, n = recording.shape
    return {
        "latents": _nothing(t, estimator.n_latents, "latent", "a.u.", "Latents."),
        "latents_std": _nothing(t, estimator.n_latents, "latent", "a.u.", "Their standard deviation."),
        "firing_rates": _nothing(t, n, "roi", "Hz", "Firing rates.", "f4"),
        "firing_rates_std": _nothing(t, n, "roi", "Hz", "Their standard deviation.", "f4"),
        "expected_spikes": _nothing(t, n, "roi", "spikes", "Spikes."),
    }


def _arrays_of_lfads(recording: Recording, estimator: Any) -> dict[str, NamedArray]:
    t, n = recording.shape
    shapes = {
        "factors": (estimator.n_factors, "factor", "a.u."),
        "inputs": (estimator.n_controller_inputs, "input", "a.u."),
    }
    shapes["firing_rates"] = (n, "roi", "Hz")
    return {
        f"{name}{ending}": _nothing(t, size, axis, unit, f"{name} (LFADS).", "f4")
        for name, (size, axis, unit) in shapes.items()
        for ending in ("", "_std")
        if size
    }


HMM = Model(
    "CalciumHMM",
    "nwb_calcium_lvm.hmm.checks",
    lambda estimator: f"{estimator.n_states} states",
    _arrays_of_hmm,
    summary,
    "overview",
)
GPFA = Model(
    "CalciumGPFA",
    "nwb_calcium_lvm.gpfa.checks",
    lambda estimator: f"{estimator.n_latents} latents",
    _arrays_of_gpfa,
    latents_summary,
    "latent_overview",
)
LFADS = Model(
    "CalciumLFADS",
    "nwb_calcium_lvm.lfads.checks",
    lambda estimator: f"{estimator.n_factors} factors and {estimator.n_controller_inputs} inputs",
    _arrays_of_lfads,
    dynamics_summary,
    "dynamics_overview",
)


def placeholder(model: Model, recording: Recording, estimator: Any) -> InferenceResult:
    """Return a result of the right shape that holds nothing, to ask where a result would go."""
    return InferenceResult(
        arrays=model.arrays(recording, estimator),
        parameters={},
        time=recording.timestamps,
        time_unit="s" if recording.has_clock else "frames",
        sampling_rate=recording.sampling_rate,
        is_regular=recording.is_regular and len(recording.segments) == 1,
        roi_ids=recording.roi_ids,
        segments=recording.segments,
        model={"name": model.name, "description": "", "hyperparameters": {}, "objective_history": np.zeros(2)},
        converged=False,
        source=recording.source,
        metadata=recording.metadata,
        roi_metadata=recording.roi_metadata,
    )


def _estimator(model: Model, parameters: dict[str, Any]) -> Any:
    import nwb_calcium_lvm

    make = getattr(nwb_calcium_lvm, model.name)
    known = make().get_params()
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise typer.BadParameter(f"{model.name} has no {', '.join(unknown)}. It has: {', '.join(sorted(known))}.")
    estimator = make(**parameters)
    try:
        import_module(model.checks).check_parameters(estimator)  # as fit does, but before anything is read
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return estimator


def _plan(result: InferenceResult, output: Output, source: Recording | None) -> Preview:
    from nwb_calcium_lvm.io import plan_write

    return plan_write(
        result, output.path, source=source, name=output.name, schema=output.schema, overwrite=output.overwrite
    )


def _say_plan(
    model: Model, recording: Recording, estimator: Any, plan: Preview, picture: Path | None, say: Say
) -> None:
    for line in facts(recording):
        say(f"  {line}")
    say(f"Would fit {model.aim(estimator)}: {estimator!r}")
    first, *others = str(plan).splitlines()
    say(f"Would write {first}, among others:")
    for line in others:
        say(f"  {line}")
    if picture is not None:
        say(f"Would draw {picture}")
    say("Nothing was written (--dry-run).")


def _write(
    model: Model,
    result: InferenceResult,
    recording: Recording,
    reading: Reading,
    output: Output,
    source: Recording | None,
    say: Say,
    *,
    verbose: int,
) -> None:
    from nwb_calcium_lvm import plotting
    from nwb_calcium_lvm.io import write_nwb, write_suite2p

    written = write_nwb(
        result,
        output.path,
        source=source,
        name=output.name,
        schema=output.schema,
        overwrite=output.overwrite,
        verbose=verbose,
    )
    say(f"Wrote {written} (processing/ophys/{output.name}{'' if output.schema == 'extension' else '_*'})")
    if output.beside_suite2p:
        beside = write_suite2p(result, reading.path, name=output.rates_name)
        say(f"Wrote {beside if beside.is_file() else f'{output.rates_name}.npy in each planeN of {beside}'}")
    if output.with_plot:
        picture = output.picture(written)
        getattr(plotting, model.picture)(result, recording).savefig(picture, dpi=150)
        say(f"Drew {picture}")
