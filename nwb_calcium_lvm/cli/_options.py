"""Options that several commands share: their names, types and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

# What is read.
Source = Annotated[Path, typer.Argument(metavar="PATH", help="An NWB file or a Suite2p folder.", show_default=False)]
NwbFile = Annotated[Path, typer.Argument(metavar="FILE", help="An NWB file.", show_default=False)]
Plane = Annotated[int | None, typer.Option(help="Imaging plane. Default: all planes.")]
Series = Annotated[str | None, typer.Option(help="Path of the series in the NWB file, where several could be meant.")]
Rate = Annotated[float | None, typer.Option(help="Frames per second, where the file does not say or says it wrong.")]
AllRois = Annotated[bool, typer.Option("--all-rois", help="Read ROIs that are not accepted as cells, too.")]
Indicator = Annotated[str | None, typer.Option(help="Such as gcamp6s. Default: as the file says.")]
Trials = Annotated[
    str | None, typer.Option(metavar="TABLE", help="Fit only the trials of this intervals table, such as trials.")
]
Event = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Fit windows around this column of the trials table.")
]
Window = Annotated[tuple[float, float], typer.Option(metavar="START STOP", help="Window around the event, in s.")]

# The model.
Observation = Annotated[
    str | None, typer.Option(help="calcium, calcium_noisy, ar_gaussian, gaussian or poisson. Default: calcium.")
]
ArOrder = Annotated[int | None, typer.Option(help="Order of the autoregression. Default: 1.")]
Seed = Annotated[int, typer.Option(help="Seed of what is random.")]

# What is written.
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="NWB file to write, Zarr if it ends so. Default: SOURCE_calcium_lvm.nwb by the source."
    ),
]
InPlace = Annotated[bool, typer.Option("--in-place", help="Add the result to the NWB file itself.")]
Name = Annotated[str | None, typer.Option(help="Name of the result in the file. Default: that of the estimator.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a result of this name, and its picture.")]
Schema = Annotated[str, typer.Option(metavar="SCHEMA", help="extension, or core for core NWB types only.")]
Plot = Annotated[Path | None, typer.Option(metavar="PNG", help="Where the picture goes. Default: beside the NWB file.")]
NoPlot = Annotated[bool, typer.Option("--no-plot", help="Draw no picture.")]
WriteSuite2p = Annotated[bool, typer.Option("--write-suite2p", help="Put the rates beside each planeN's files, too.")]
