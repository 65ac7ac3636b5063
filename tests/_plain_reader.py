"""Read a result with pynwb alone, as someone does who does not have this package, and check what is there.

    python tests/_plain_reader.py FILE [NAME]      prints everything of the result NAME (default CalciumHMM)

Needs pynwb and nothing else; this package and its extension cannot be imported here even where they are installed.
With --serve it answers requests, a line of JSON each, so that many files can be read by one process.
"""

import json
import sys
import traceback
import warnings

import numpy as np

PACKAGES = ("nwb_calcium_lvm", "ndx_calcium_lvm")


class _Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in PACKAGES:
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, _Blocked())

from hdmf.common import DynamicTable, DynamicTableRegion, VectorIndex  # noqa: E402
from hdmf.container import Data  # noqa: E402
from pynwb import NWBHDF5IO, NWBFile, TimeSeries, validate  # noqa: E402
from pynwb.epoch import TimeIntervals  # noqa: E402


def place(obj):
    """Path of an object below the file, such as ``processing/ophys/dff/traces``."""
    parts = []
    while obj is not None and not isinstance(obj, NWBFile):
        parts.append(obj.name)
        if isinstance(obj.parent, NWBFile):
            rooms = ("processing", "acquisition", "analysis", "scratch", "stimulus")
            parts += [room for room in rooms if getattr(obj.parent, room).get(obj.name) is obj]
        obj = obj.parent
    return "/".join(reversed(parts))


def times_of(series, n_samples):
    """The time of each sample in s."""
    if series.timestamps is not None:
        return np.asarray(series.timestamps[:], float)
    return (series.starting_time or 0.0) + np.arange(n_samples) / series.rate


def loaded(values):
    """Values as an array; text as text."""
    array = np.asarray(values[()] if hasattr(values, "shape") else values)
    if array.dtype.kind in "OS":
        array = np.array([v.decode() if isinstance(v, bytes) else str(v) for v in array.ravel()]).reshape(array.shape)
    return array


def result_of(nwbfile, name, module):
    """Everything of a result: path below the module, then what was found, each an array."""
    room = f"processing/{module}/"
    found = {}
    for obj in nwbfile.objects.values():
        path = place(obj)
        if not (path.startswith((room + name + "/", room + name + "_")) or path == room + name):
            continue
        short = path.removeprefix(room)
        if isinstance(obj, TimeSeries):
            found[short] = _series(obj)
        elif isinstance(obj, DynamicTable):
            found[short] = _table(obj)
        elif isinstance(obj, Data) and not isinstance(obj.parent, DynamicTable):
            found[short] = {"data": loaded(obj.data)}
        elif not isinstance(obj, Data):
            found[short] = {"type": np.array(type(obj).__name__)}
    return found


def _series(series):
    facts = {"data": loaded(series.data), "times": times_of(series, len(series.data)), "unit": np.array(series.unit)}
    rois = getattr(series, "rois", None)
    if rois is not None:
        facts |= {"rows": loaded(rois.data), "table": np.array(place(rois.table))}
        assert facts["rows"].max() < len(rois.table), f"{series.name}: rows beyond the table"
        assert facts["data"].shape[1:2] == facts["rows"].shape, f"{series.name}: not a column per ROI"
    assert series.unit, f"{series.name} has no unit"
    assert series.description not in ("", "no description"), f"{series.name} is not described"
    assert len(facts["times"]) == len(facts["data"]), f"{series.name}: not a time for each sample"
    assert (np.diff(facts["times"]) > 0).all(), f"{series.name}: times go back"
    if facts["data"].dtype.kind == "f":
        assert np.isfinite(facts["data"]).all(), f"{series.name}: not finite"
    return facts


def _table(table):
    facts = {"id": loaded(table.id.data)}
    for name in table.colnames:
        column = table[name]
        if isinstance(column, VectorIndex):
            continue
        facts[f"column:{name}"] = loaded(column.data)
        assert len(facts[f"column:{name}"]) == len(table), f"{table.name}: column {name} is of another length"
        assert column.description, f"{table.name}: column {name} is not described"
        if isinstance(column, DynamicTableRegion):
            facts[f"table:{name}"] = np.array(place(column.table))
    if isinstance(table, TimeIntervals):
        assert (facts["column:stop_time"] >= facts["column:start_time"]).all(), f"{table.name}: ends before it starts"
    table.to_dataframe()
    return facts


def read(path, name, module="ophys", series=()):
    """Read a result and the clocks of some series by path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with NWBHDF5IO(str(path), "r") as io:
            nwbfile = io.read()
            found = result_of(nwbfile, name, module)
            clocks = {
                p: {"times": times_of(o, max(o.data.shape))}
                for o in nwbfile.objects.values()
                if (p := place(o)) in series
            }
        errors = [str(e) for e in validate(path=str(path))]
    return found, clocks, errors


def serve():
    """Answer requests until the input ends: file, name, module, series, and the .npz to put the answer into."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            found, clocks, errors = read(request["file"], request["name"], request["module"], request["series"])
            flat = {f"{path}|{key}": v for path, facts in (found | clocks).items() for key, v in facts.items()}
            np.savez(request["out"], **flat)
            print(json.dumps({"errors": errors}), flush=True)
        except Exception:
            print(json.dumps({"failed": traceback.format_exc()}), flush=True)


def main():
    """Print a result, and fail if there is none or the file is not valid."""
    path, name = sys.argv[1], (sys.argv[2:] or ["CalciumHMM"])[0]
    found, _, errors = read(path, name)
    for place_, facts in found.items():
        print(place_)
        for key, values in facts.items():
            sample = values if values.ndim == 0 else f"{values.dtype} {' x '.join(map(str, values.shape))}"
            print(f"    {key}: {sample}")
    for error in errors:
        print("pynwb validate:", error)
    print(f"{len(found)} objects of {name} in {path}, read without {' and '.join(PACKAGES)}")
    return 0 if found and not errors else 1


if __name__ == "__main__":
    sys.exit(serve() if sys.argv[1:] == ["--serve"] else main())
