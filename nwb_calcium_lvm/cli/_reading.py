"""What is read from where: the options of the command line that turn a path into a Recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.stream import RecordingStream


@dataclass(frozen=True)
class Reading:
    """A source, and how to read it.

    Parameters
    ----------
    path : Path
        NWB file or Suite2p folder.
    plane, series, sampling_rate, indicator, accepted
        As of :func:`~nwb_calcium_lvm.read_nwb` and :func:`~nwb_calcium_lvm.read_suite2p`.
    trials : str, optional
        Intervals table whose trials are used; None uses the whole recording.
    event : str, optional
        Column of that table (default: ``trials``) around which windows are cut.
    window : (float, float)
        Start and stop of the windows, in s.
    """

    path: Path
    plane: int | None = None
    series: str | None = None
    sampling_rate: float | None = None
    indicator: str | None = None
    accepted: bool = True
    trials: str | None = None
    event: str | None = None
    window: tuple[float, float] = (-1.0, 3.0)

    @property
    def is_suite2p(self) -> bool:
        """Whether the path is a folder that Suite2p wrote, rather than an NWB file (or NWB store)."""
        from nwb_calcium_lvm.io.zarr_store import is_store

        return self.path.is_dir() and not is_store(self.path)

    def read(self) -> Recording:
        """Read the recording, and cut it into trials if asked to."""
        if not self.path.exists():
            raise DataError(f"{self.path} does not exist. Expected an NWB file or a Suite2p folder.")
        recording = self._whole()
        if (self.trials or self.event) and recording.trials is None:
            raise DataError(
                f"{self.path} has no trials table (or an empty one). Pass --trials with the name of another intervals "
                "table, or fit the whole recording."
            )
        if self.event is not None:
            return recording.align(self.event, self.window)
        return recording if self.trials is None else recording.select_trials()

    def stream(self, scratch: Path | None = None) -> RecordingStream:
        """Open the recording to be read some ROIs at a time; temporary files go into ``scratch``."""
        if not self.path.exists():
            raise DataError(f"{self.path} does not exist. Expected an NWB file or a Suite2p folder.")
        if self.is_suite2p:
            from nwb_calcium_lvm.io import stream_suite2p

            return stream_suite2p(self.path, **self._of_suite2p())
        from nwb_calcium_lvm.io import stream_nwb

        return stream_nwb(self.path, **self._of_nwb(), scratch=scratch)

    def _whole(self) -> Recording:
        if self.is_suite2p:
            from nwb_calcium_lvm.io import read_suite2p

            return read_suite2p(self.path, **self._of_suite2p())
        from nwb_calcium_lvm.io import read_nwb

        return read_nwb(self.path, **self._of_nwb())

    def _of_suite2p(self) -> dict[str, Any]:
        if self.series is not None:
            raise typer.BadParameter(f"--series is for NWB files, and {self.path} is a Suite2p folder.")
        if self.trials is not None or self.event is not None:
            raise typer.BadParameter(
                f"A Suite2p folder such as {self.path} holds no trials. Put them into an NWB file, or use the "
                "Python interface: Recording(..., trials=...)."
            )
        return self._common()

    def _of_nwb(self) -> dict[str, Any]:
        return {**self._common(), "series": self.series, "trials": self.trials or "trials"}

    def _common(self) -> dict[str, Any]:
        return {
            "plane": self.plane,
            "sampling_rate": self.sampling_rate,
            "indicator": self.indicator,
            "accepted": self.accepted,
        }
