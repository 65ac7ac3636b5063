"""What the benchmark scripts share: the command line, tables, result files."""

import argparse
import json
import logging
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("nwb-calcium-lvm", "jax", "numpy", "scikit-learn", "dynamax", "hmmlearn")


def parser(doc, seeds):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="a small version, to see that it runs; writes no result file")
    p.add_argument("--seeds", type=int, default=seeds, help="number of simulated data sets (default: %(default)s)")
    p.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files (default: %(default)s)")
    return p


def write(name, args, began, results):
    """Write results/NAME.json with what is needed to judge and repeat it."""
    if args.quick:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": name,
        "arguments": {k: v for k, v in vars(args).items() if k != "out"},
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": versions(),
        "results": results,
    }
    path = args.out / f"{name}.json"
    path.write_text(json.dumps(rounded(record), indent=1, allow_nan=True) + "\n", encoding="utf-8")
    print(f"\nWritten to {path} after {record['minutes']} minutes.")


def versions():
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def rounded(value):
    """Return the same nested value with arrays as lists and floats of 5 digits, small enough to keep in git."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [rounded(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.5g}")
    return value.item() if isinstance(value, np.generic) else value


def table(header, rows):
    """Print columns, the first to the left and the rest to the right."""
    rows = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for n, row in enumerate(rows):
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells))
        if n == 0:
            print("  ".join("-" * w for w in widths))


def spread(values, digits=3):
    """Return 'mean ± sd' over seeds."""
    values = np.asarray(values, float)
    sd = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.{digits}f} ± {sd:.{digits}f}"


def progress(message):
    print(message, file=sys.stderr, flush=True)


logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # it reports each dip of its own likelihood
