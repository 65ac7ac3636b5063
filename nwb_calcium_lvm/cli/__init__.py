"""The command line, ``nwb-calcium-lvm``.

Only the shape of the commands is here; what they do, and every heavy import, waits until one is run, so that help and
completion come at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nwb_calcium_lvm.cli._fit_commands import fit_app
from nwb_calcium_lvm.cli._options import (
    AllRois,
    Debug,
    DryRun,
    Indicator,
    InPlace,
    Name,
    NwbFile,
    Out,
    Overwrite,
    Plane,
    Quiet,
    Rate,
    Series,
    Source,
    WriteSuite2p,
)

app = typer.Typer(
    name="nwb-calcium-lvm",
    help="Latent-variable models for calcium imaging, from NWB files and Suite2p folders and back into NWB.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(fit_app, name="fit")


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
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Simulate a session, write it as NWB, find its states, and compare them with the truth."""
    from nwb_calcium_lvm.cli._console import reporting
    from nwb_calcium_lvm.cli._demo import run_demo

    with reporting(quiet=quiet, debug=debug) as say:
        run_demo(out, seed, say, verbose=not quiet, dry_run=dry_run)


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


@app.command()
def spikes(
    path: Source,
    model: Annotated[
        str, typer.Option(help="s2s (trained on known spikes), vae (trained on simulations), filter or oasis.")
    ] = "s2s",
    out: Out = None,
    in_place: InPlace = False,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights of s2s or vae: a name, or a file. Default: default, ml_phys."),
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
    indicator: Indicator = None,
    name: Name = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    write_suite2p: WriteSuite2p = False,
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


@app.command()
def report(
    path: NwbFile,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Page to write, or folder for it. Default: FILE_report.html.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="Show only the result of this name. May be repeated. Default: all.")
    ] = None,
    plane: Plane = None,
    series: Series = None,
    sampling_rate: Rate = None,
    all_rois: AllRois = False,
    indicator: Indicator = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a page that is there.")] = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write one page of HTML on a recording and its results: quality, pictures, doubts, and what to try next."""
    from nwb_calcium_lvm.cli._console import reporting
    from nwb_calcium_lvm.cli._report import run_report

    given = {"plane": plane, "series": series, "sampling_rate": sampling_rate, "indicator": indicator}
    reading = {key: value for key, value in given.items() if value is not None}
    if all_rois:
        reading["accepted"] = False
    with reporting(quiet=quiet, debug=debug) as say:
        run_report(path, out, name, reading, say, overwrite=overwrite, dry_run=dry_run)


@app.command()
def batch(
    fit: Annotated[Path, typer.Argument(metavar="FIT.toml", help="Model, reading and outputs.", show_default=False)],
    sessions: Annotated[
        list[Path], typer.Argument(metavar="SESSIONS...", help="NWB files and Suite2p folders.", show_default=False)
    ],
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-j", help="Processes here; 0: in this one. Default: one for two processors."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler to use, such as tcp://host:8786.")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Write a page of HTML for each session, too.")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Replace results of another configuration or input.")] = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run one model over many sessions, side by side; the same command goes on after a kill."""
    from nwb_calcium_lvm.cli._console import reporting

    if workers is not None and scheduler is not None:
        raise typer.BadParameter("--workers and --scheduler exclude each other.")
    with reporting(quiet=quiet, debug=debug) as say:
        from nwb_calcium_lvm.cli._batch import run_batch_command

        run_batch_command(
            fit,
            sessions,
            say,
            workers=workers,
            scheduler=scheduler,
            redo=redo,
            report=report,
            dry_run=dry_run,
            verbose=0 if quiet else 1,
        )


@app.command()
def cite(
    path: NwbFile,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="As BibTeX entries.")] = False,
    debug: Debug = False,
) -> None:
    """Print what to cite for the results in an NWB file."""
    from nwb_calcium_lvm.cli._console import reporting

    with reporting(debug=debug) as say:
        from nwb_calcium_lvm.citing import cite as references

        say(references(path, style="bibtex" if bibtex else "text"))


@app.command()
def doctor(debug: Debug = False) -> None:
    """Check this installation: versions, devices, room, and a fit whose result is known."""
    from nwb_calcium_lvm.cli._console import reporting
    from nwb_calcium_lvm.cli._doctor import run_doctor

    with reporting(debug=debug) as say:
        run_doctor(say)


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
    dry_run: DryRun = False,
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
            dry_run=dry_run,
        )
