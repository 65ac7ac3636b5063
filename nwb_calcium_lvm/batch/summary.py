"""The table of a batch: a row for each session, as CSV, and as parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nwb_calcium_lvm.batch.records import Record, put

COLUMNS = ("session", "status", "error", "score", "n_rois", "n_frames", "converged", "seconds", "output", "report")


def write_summary(folder: Path, records: Sequence[Record]) -> list[Path]:
    """Write the tables, each whole, and return their paths."""
    rows: list[dict[Any, Any]] = [{column: getattr(record, column) for column in COLUMNS} for record in records]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    written = [folder / "summary.csv"]
    put(written[0], text.getvalue())
    if find_spec("pyarrow") is not None:
        import pandas as pd

        kinds = {
            "score": "float64",
            "n_rois": "Int64",
            "n_frames": "Int64",
            "converged": "boolean",
            "seconds": "float64",
        }
        table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)
        path, temporary = folder / "summary.parquet", folder / ".summary.parquet"
        table.to_parquet(temporary)
        os.replace(temporary, path)
        written.append(path)
    return written
