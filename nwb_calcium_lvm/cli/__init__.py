"""The command line, ``nwb-calcium-lvm``.

Only the shape of the commands is here; what they do, and every heavy import, waits until one is run, so that help and
completion come at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="nwb-calcium-lvm",
    help="Latent-variable models for calcium imaging, from NWB files and Suite2p folders and back into NWB.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
fit_app = typer.Typer(help="Fit a model and write what it infers into NWB.", no_args_is_help=True)
app.add_typer(fit_app, name="fit")

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")]
Source = Annotated[Path, typer.Argument(metavar="PATH", help="An NWB file or a Suite2p folder.", show_default=False)]
Plane = Annotated[int | None, typer.Option(help="Imaging plane. Default: all planes.")]
Series = Annotated[str | None, typer.Option(help="Path of the series in the NWB file, where several could be meant.")]
Rate = Annotated[float | None, typer.Option(help="Frames per second, where the file does not say or says it wrong.")]
AllRois = Annotated[bool, typer.Option("--all-rois", help="Read ROIs that are not accepted as cells, too.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from nwb_calcium_lvm import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Latent-variable models for calcium imaging, from NWB files and Suite2p folders and back into NWB."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo's files; made if it is not there.")] = Path(
        "nwb-calcium-lvm-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the simulation and the fit.")] = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Simulate a session, write it as NWB, find its states, and compare them with the truth."""
    from nwb_calcium_lvm.cli._console import reporting
    from nwb_calcium_lvm.cli._demo import run_demo

    with reporting(quiet=quiet, debug=debug) as say:
        run_demo(out, seed, say, verbose=not quiet)


@app.command()
def info(
    path: Source,
    plane: Plane = None,
    series: Series = None,
    sampling_rate: Rate = None,
    all_rois: AllRois = False,
    debug: Debug = False,
) -> None:
    """Say what is in a file or folder, and what of it would be read."""
    from nwb_calcium_lvm.cli._console import reporting
    from nwb_calcium_lvm.cli._info import run_info
    from nwb_calcium_lvm.cli._reading import Reading

    with reporting(debug=debug) as say:
        reading = Reading(path, plane=plane, series=series, sampling_rate=sampling_rate, accepted=not all_rois)
        run_info(reading, say)


@fit_app.command("hmm")
def fit_hmm(
    path: Source,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="NWB file to write, Zarr if it ends so. Default: SOURCE_calcium_lvm.nwb by the source."
        ),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Add the result to the NWB file itself.")] = False,
    n_states: Annotated[int | None, typer.Option("--n-states", "-k", help="Number of states. Default: 3.")] = None,
    observation: Annotated[
        str | None, typer.Option(help="calcium, calcium_noisy, ar_gaussian, gaussian or poisson. Default: calcium.")
    ] = None,
    ar_order: Annotated[int | None, typer.Option(help="Order of the autoregression. Default: 1.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="Any other parameter of CalciumHMM, such as --set stickiness=50."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the starts.")] = 0,
    plane: Plane = None,
    series: Series = None,
    sampling_rate: Rate = None,
    all_rois: AllRois = False,
    indicator: Annotated[str | None, typer.Option(help="Such as gcamp6s. Default: as the file says.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the result in the file. Default: CalciumHMM.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a result of this name, and the picture.")
    ] = False,
    schema: Annotated[
        str, typer.Option(metavar="SCHEMA", help="extension, or core for core NWB types only.")
    ] = "extension",
    trials: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Fit only the trials of this intervals table, such as trials.")
    ] = None,
    event: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Fit windows around this column of the trials table.")
    ] = None,
    window: Annotated[
        tuple[float, float], typer.Option(metavar="START STOP", help="Window around the event, in s.")
    ] = (-1.0, 3.0),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Where the picture goes. Default: beside the NWB file.")
    ] = None,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw no picture.")] = False,
    write_suite2p: Annotated[
        bool, typer.Option("--write-suite2p", help="Put the rates beside each planeN's files, too.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the hidden states of a population with a calcium hidden Markov model."""
    from nwb_calcium_lvm.cli._console import reporting
    from nwb_calcium_lvm.cli._fit import HMM, Output, parameters_of, run_fit
    from nwb_calcium_lvm.cli._reading import Reading

    if in_place and out is not None:
        raise typer.BadParameter("--out and --in-place exclude each other.")
    if no_plot and plot is not None:
        raise typer.BadParameter("--plot and --no-plot exclude each other.")
    reading = Reading(
        path,
        plane=plane,
        series=series,
        sampling_rate=sampling_rate,
        indicator=indicator,
        accepted=not all_rois,
        trials=trials,
        event=event,
        window=window,
    )
    output = Output(
        path=path if in_place else out,
        name=name or "CalciumHMM",
        overwrite=overwrite,
        plot=plot,
        with_plot=not no_plot,
        beside_suite2p=write_suite2p,
        in_place=in_place,
        schema=schema,
    )
    given = {"n_states": n_states, "observation": observation, "ar_order": ar_order}
    parameters = parameters_of(given, set_ or [])
    parameters |= {"random_state": seed, "verbose": 0 if quiet else 1}
    with reporting(quiet=quiet, debug=debug) as say:
        run_fit(HMM, reading, parameters, output, say, dry_run=dry_run)


@fit_app.command("gpfa")
def fit_gpfa(
    path: Source,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="NWB file to write, Zarr if it ends so. Default: SOURCE_calcium_lvm.nwb by the source."
        ),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Add the result to the NWB file itself.")] = False,
    n_latents: Annotated[int | None, typer.Option("--n-latents", "-k", help="Number of latents. Default: 3.")] = None,
    observation: Annotated[
        str | None, typer.Option(help="calcium, ar_gaussian, gaussian or poisson. Default: calcium.")
    ] = None,
    ar_order: Annotated[int | None, typer.Option(help="Order of the autoregression. Default: 1.")] = None,
    kernel: Annotated[str | None, typer.Option(help="matern32, matern52 or rbf. Default: matern32.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="Any other parameter of CalciumGPFA, such as --set ard=true."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of what is random.")] = 0,
    plane: Plane = None,
    series: Series = None,
    sampling_rate: Rate = None,
    all_rois: AllRois = False,
    indicator: Annotated[str | None, typer.Option(help="Such as gcamp6s. Default: as the file says.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the result in the file. Default: CalciumGPFA.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a result of this name, and the picture.")
    ] = False,
    schema: Annotated[
        str, typer.Option(metavar="SCHEMA", help="extension, or core for core NWB types only.")
    ] = "extension",
    trials: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Fit only the trials of this intervals table, such as trials.")
    ] = None,
    event: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Fit windows around this column of the trials table.")
    ] = None,
    window: Annotated[
        tuple[float, float], typer.Option(metavar="START STOP", help="Window around the event, in s.")
    ] = (-1.0, 3.0),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Where the picture goes. Default: beside the NWB file.")
    ] = None,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw no picture.")] = False,
    write_suite2p: Annotated[
        bool, typer.Option("--write-suite2p", help="Put the rates beside each planeN's files, too.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find smooth latent trajectories of a population with calcium Gaussian-process factor analysis."""
    from nwb_calcium_lvm.cli._console import reporting
    from nwb_calcium_lvm.cli._fit import GPFA, Output, parameters_of, run_fit
    from nwb_calcium_lvm.cli._reading import Reading

    if in_place and out is not None:
        raise typer.BadParameter("--out and --in-place exclude each other.")
    if no_plot and plot is not None:
        raise typer.BadParameter("--plot and --no-plot exclude each other.")
    reading = Reading(
        path,
        plane=plane,
        series=series,
        sampling_rate=sampling_rate,
        indicator=indicator,
        accepted=not all_rois,
        trials=trials,
        event=event,
        window=window,
    )
    output = Output(
        path=path if in_place else out,
        name=name or "CalciumGPFA",
        overwrite=overwrite,
        plot=plot,
        with_plot=not no_plot,
        beside_suite2p=write_suite2p,
        in_place=in_place,
        schema=schema,
    )
    given = {"n_latents": n_latents, "observation": observation, "ar_order": ar_order, "kernel": kernel}
    parameters = parameters_of(given, set_ or [])
    parameters |= {"random_state": seed, "verbose": 0 if quiet else 1}
    with reporting(quiet=quiet, debug=debug) as say:
        run_fit(GPFA, reading, parameters, output, say, dry_run=dry_run)


@app.command()
def spikes(
    path: Source,
    model: Annotated[
        str, typer.Option(help="s2s (trained networks), filter (model of calcium, spikes and noise) or oasis.")
    ] = "s2s",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="NWB file to write. Default: SOURCE_calcium_lvm.nwb, beside the source."),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Add the result to the NWB file itself.")] = False,
    weights: Annotated[
        str | None, typer.Option(help="Weights of s2s: a name, or a file that train-s2s wrote. Default: default.")
    ] = None,
    lag: Annotated[
        float | None, typer.Option(help="Move rates later by this many seconds. Default: that of the model.")
    ] = None,
    spike_times: Annotated[
        bool, typer.Option("--spike-times", help="Write single spikes with a confidence each, too.")
    ] = False,
    plane: Plane = None,
    series: Series = None,
    sampling_rate: Rate = None,
    all_rois: AllRois = False,
    indicator: Annotated[str | None, typer.Option(help="Such as gcamp6s. Default: as the file says.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the result in the file. Default: that of the estimator.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result of this name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    write_suite2p: Annotated[
        bool, typer.Option("--write-suite2p", help="Put the rates beside each planeN's files, too.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Infer spikes per second of every ROI."""
    from nwb_calcium_lvm.cli._console import reporting
    from nwb_calcium_lvm.cli._fit import Output
    from nwb_calcium_lvm.cli._reading import Reading
    from nwb_calcium_lvm.cli._spikes import run_spikes, spike_estimator

    if in_place and out is not None:
        raise typer.BadParameter("--out and --in-place exclude each other.")
    reading = Reading(
        path,
        plane=plane,
        series=series,
        sampling_rate=sampling_rate,
        indicator=indicator,
        accepted=not all_rois,
    )
    with reporting(quiet=quiet, debug=debug) as say:
        estimator = spike_estimator(model, weights, lag)
        output = Output(
            path=path if in_place else out,
            name=name or type(estimator).__name__,
            overwrite=overwrite,
            with_plot=False,
            beside_suite2p=write_suite2p,
            in_place=in_place,
        )
        run_spikes(reading, estimator, output, say, dry_run=dry_run, spike_times=spike_times, verbose=0 if quiet else 1)


@app.command("train-s2s")
def train_s2s(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Recordings with known spikes, in CASCADE's layout.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of weights to write.")] = Path("s2s.npz"),
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints; training goes on from them. Default: OUT_checkpoints.")
    ] = None,
    config: Annotated[str, typer.Option(help="default or published.")] = "default",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="K=V", help="Any setting of the network or its training, such as --set steps=500."
        ),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="Leave out data sets whose names begin so, such as interneurons. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the order of examples.")] = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train spike networks on a folder of recordings with known spikes."""
    from nwb_calcium_lvm.cli._console import reporting
    from nwb_calcium_lvm.cli._fit import parameters_of
    from nwb_calcium_lvm.cli._spikes import run_train_s2s

    settings = parameters_of({}, set_ or [])
    with reporting(quiet=quiet, debug=debug) as say:
        run_train_s2s(
            folder,
            out,
            checkpoints or out.with_name(f"{out.stem}_checkpoints"),
            config,
            settings,
            leave_out or [],
            seed,
            say,
        )
