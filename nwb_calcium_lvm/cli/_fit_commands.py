"""The commands ``nwb-calcium-lvm fit ...``: only their shape, as of all commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from nwb_calcium_lvm.cli._options import (
    AllRois,
    ArOrder,
    Debug,
    DryRun,
    Event,
    Indicator,
    InPlace,
    Name,
    NoPlot,
    Observation,
    Out,
    Overwrite,
    Plane,
    Plot,
    Quiet,
    Rate,
    Schema,
    Seed,
    Series,
    Source,
    Trials,
    Window,
    WriteSuite2p,
)

fit_app = typer.Typer(help="Fit a model and write what it infers into NWB.", no_args_is_help=True)


@fit_app.command("hmm")
def fit_hmm(
    path: Source,
    out: Out = None,
    in_place: InPlace = False,
    n_states: Annotated[int | None, typer.Option("--n-states", "-k", help="Number of states. Default: 3.")] = None,
    observation: Observation = None,
    ar_order: ArOrder = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="Any other parameter of CalciumHMM, such as --set stickiness=50."),
    ] = None,
    seed: Seed = 0,
    plane: Plane = None,
    series: Series = None,
    sampling_rate: Rate = None,
    all_rois: AllRois = False,
    indicator: Indicator = None,
    name: Name = None,
    overwrite: Overwrite = False,
    schema: Schema = "extension",
    trials: Trials = None,
    event: Event = None,
    window: Window = (-1.0, 3.0),
    dry_run: DryRun = False,
    plot: Plot = None,
    no_plot: NoPlot = False,
    write_suite2p: WriteSuite2p = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the hidden states of a population with a calcium hidden Markov model."""
    _run("HMM", locals(), ("n_states", "observation", "ar_order"))


@fit_app.command("gpfa")
def fit_gpfa(
    path: Source,
    out: Out = None,
    in_place: InPlace = False,
    n_latents: Annotated[int | None, typer.Option("--n-latents", "-k", help="Number of latents. Default: 3.")] = None,
    observation: Observation = None,
    ar_order: ArOrder = None,
    kernel: Annotated[str | None, typer.Option(help="matern32, matern52 or rbf. Default: matern32.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="Any other parameter of CalciumGPFA, such as --set ard=true."),
    ] = None,
    seed: Seed = 0,
    plane: Plane = None,
    series: Series = None,
    sampling_rate: Rate = None,
    all_rois: AllRois = False,
    indicator: Indicator = None,
    name: Name = None,
    overwrite: Overwrite = False,
    schema: Schema = "extension",
    trials: Trials = None,
    event: Event = None,
    window: Window = (-1.0, 3.0),
    dry_run: DryRun = False,
    plot: Plot = None,
    no_plot: NoPlot = False,
    write_suite2p: WriteSuite2p = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find smooth latent trajectories of a population with calcium Gaussian-process factor analysis."""
    _run("GPFA", locals(), ("n_latents", "observation", "ar_order", "kernel"))


@fit_app.command("lfads")
def fit_lfads(
    path: Source,
    out: Out = None,
    in_place: InPlace = False,
    n_factors: Annotated[int | None, typer.Option("--n-factors", "-k", help="Number of factors. Default: 8.")] = None,
    n_controller_inputs: Annotated[
        int | None, typer.Option("--n-inputs", help="Inferred inputs; 0 for dynamics that nothing drives. Default: 4.")
    ] = None,
    observation: Observation = None,
    ar_order: ArOrder = None,
    n_generator: Annotated[int | None, typer.Option(help="Units of the generator. Default: 100.")] = None,
    max_epochs: Annotated[int | None, typer.Option("--epochs", help="Most passes over the data. Default: 300.")] = None,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder that keeps the training; the same command goes on from there."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="Any other parameter of CalciumLFADS, such as --set batch_size=32."),
    ] = None,
    seed: Seed = 0,
    plane: Plane = None,
    series: Series = None,
    sampling_rate: Rate = None,
    all_rois: AllRois = False,
    indicator: Indicator = None,
    name: Name = None,
    overwrite: Overwrite = False,
    schema: Schema = "extension",
    trials: Trials = None,
    event: Event = None,
    window: Window = (-1.0, 3.0),
    dry_run: DryRun = False,
    plot: Plot = None,
    no_plot: NoPlot = False,
    write_suite2p: WriteSuite2p = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the nonlinear dynamics of a population, and what drives them, with calcium LFADS."""
    _run(
        "LFADS",
        locals(),
        (
            "n_factors",
            "n_controller_inputs",
            "observation",
            "ar_order",
            "n_generator",
            "max_epochs",
            "checkpoint_dir",
        ),
    )


def _run(model: str, options: Mapping[str, Any], own: tuple[str, ...]) -> None:
    """Run a command, given its options by name; ``own`` are those that its estimator takes as they are."""
    from nwb_calcium_lvm.cli import _fit as fit
    from nwb_calcium_lvm.cli._console import reporting
    from nwb_calcium_lvm.cli._reading import Reading

    given: Any = dict(options)
    if given["in_place"] and given["out"] is not None:
        raise typer.BadParameter("--out and --in-place exclude each other.")
    if given["no_plot"] and given["plot"] is not None:
        raise typer.BadParameter("--plot and --no-plot exclude each other.")
    chosen: fit.Model = getattr(fit, model)
    reading = Reading(
        accepted=not given["all_rois"],
        **{k: given[k] for k in ("path", "plane", "series", "sampling_rate", "indicator", "trials", "event", "window")},
    )
    output = fit.Output(
        path=given["path"] if given["in_place"] else given["out"],
        name=given["name"] or chosen.name,
        with_plot=not given["no_plot"],
        beside_suite2p=given["write_suite2p"],
        **{k: given[k] for k in ("overwrite", "plot", "in_place", "schema")},
    )
    parameters = fit.parameters_of({k: given[k] for k in own}, given["set_"] or [])
    parameters |= {"random_state": given["seed"], "verbose": 0 if given["quiet"] else 1}
    with reporting(quiet=given["quiet"], debug=given["debug"]) as say:
        fit.run_fit(chosen, reading, parameters, output, say, dry_run=given["dry_run"])
