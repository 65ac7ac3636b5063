"""Written, and read with this package, without it, exported, appended to, in HDF5 and in Zarr."""

from __future__ import annotations

import subprocess
import sys

import ndx_calcium_lvm as ndx
import numpy as np
import pytest
from hdmf.container import AbstractContainer, Data
from ndx_calcium_lvm.testing import mock
from ndx_files import add_results, session, write
from pynwb import NWBHDF5IO, validate

RESULTS = "CalciumHMM"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    nwbfile = session()
    add_results(nwbfile)
    return write(nwbfile, tmp_path_factory.mktemp("ndx") / "session.nwb")


def plain(value):
    """Any field as plain values: objects elsewhere by name, children by their fields."""
    if isinstance(value, Data):
        facts = {k: plain(v) for k, v in value.fields.items() if k not in ("data", "table")}
        return {"type": type(value).__name__, "data": plain(value.data), **facts}
    if isinstance(value, AbstractContainer):
        return f"{type(value).__name__} {value.name}"
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple) and value and isinstance(value[0], AbstractContainer):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | bool):
        return value
    values = np.asarray(value[()] if hasattr(value, "shape") else value)
    return values.tolist()


def everything(results):
    """All fields of a result and of what is in it."""
    inside = results.all_children()
    return {f"{o.parent.name}/{o.name}": {k: plain(v) for k, v in o.fields.items()} for o in inside}


def test_all_that_was_written_is_read(path):
    nwbfile = session()
    expected = everything(add_results(nwbfile))
    assert len(expected) > 30
    with NWBHDF5IO(str(path), "r") as io:
        assert everything(io.read().processing["ophys"][RESULTS]) == expected


def test_what_is_absent_stays_absent(tmp_path):
    nwbfile = session()
    model = mock.mock_FittedModel(
        random_seed=None, objective_history=None, hyperparameters_json=None, estimator_state=None, labeled_arrays=None
    )
    results = ndx.CalciumLVMResults(name="bare", description="Little.", model=model)
    nwbfile.processing["ophys"].add(results)
    dff = nwbfile.processing["ophys"]["dff"]
    results.add_inferred_series(mock.mock_LatentSeries(source_series=dff))
    results.add_inferred_series(mock.mock_InferredSeries(model=model))
    results.add_trace_sources(mock.mock_TraceSource(series=dff))
    written = write(nwbfile, tmp_path / "bare.nwb")
    with NWBHDF5IO(str(written), "r") as io:
        read = io.read().processing["ophys"]["bare"]
        assert read.model.random_seed is None
        assert read.model.source_series is None
        assert not read.model.labeled_arrays
        latents, inputs = read.inferred_series["latents"], read.inferred_series["inputs"]
        assert (latents.posterior_std, latents.model, latents.source_series.name) == (None, None, "dff")
        assert (inputs.posterior_std, inputs.model.name, inputs.source_series) == (None, "model", None)
        assert read.trace_sources["source"].neuropil_series is None
        assert read.segments is None
        assert read.time_unit == "s"


@pytest.mark.parametrize(
    ("values", "dims"),
    [
        (np.float64(-12.5), []),
        (np.int64(3), []),
        (True, []),
        ("text", []),
        (np.array([7.0]), ["state"]),
        (np.zeros((0, 2)), ["state", "lag"]),
        (np.arange(6, dtype=np.uint8).reshape(2, 3), ["state", "lag"]),
        (np.array([True, False]), ["roi"]),
        (np.array(["a", "b"]), ["roi"]),
        (np.array([[np.nan, np.inf]], np.float32), ["a", "b"]),
    ],
)
def test_an_array_of_any_kind_comes_back(tmp_path, values, dims):
    nwbfile = session()
    add_results(nwbfile, labeled_arrays=[mock.mock_LabeledArray(name="it", data=values, dims=dims)])
    with NWBHDF5IO(str(write(nwbfile, tmp_path / "array.nwb")), "r") as io:
        read = io.read().processing["ophys"][RESULTS].labeled_arrays["it"]
        assert [str(d) for d in read.dims] == dims
        data = read.data[()] if hasattr(read.data, "shape") else read.data
        # hdmf reads an array of one value as that value; dims say how many axes it had.
        restored = np.reshape(data, (1,) * len(dims)) if np.ndim(data) == 0 else np.asarray(data)
        np.testing.assert_array_equal(restored, values)
        if np.asarray(values).dtype.kind != "U":
            assert restored.dtype == np.asarray(values).dtype


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**62])
def test_a_seed_keeps_all_its_bits(tmp_path, seed):
    nwbfile = session()
    add_results(nwbfile, model=mock.mock_FittedModel(random_seed=seed))
    with NWBHDF5IO(str(write(nwbfile, tmp_path / "seed.nwb")), "r") as io:
        assert io.read().processing["ophys"][RESULTS].model.random_seed == seed


def test_a_file_is_valid(path):
    assert validate(path=str(path)) == []


def test_the_validator_sees_a_missing_field(path, tmp_path):
    import h5py

    broken = tmp_path / "broken.nwb"
    broken.write_bytes(path.read_bytes())
    with h5py.File(broken, "r+") as file:
        del file[f"processing/ophys/{RESULTS}/model"].attrs["model_class"]
    assert any("model_class" in str(e) for e in validate(path=str(broken)))


def test_nothing_is_to_be_said_about_a_file(path):
    inspector = pytest.importorskip("nwbinspector")
    told = [m for m in inspector.inspect_nwbfile(nwbfile_path=str(path)) if RESULTS in str(m.location)]
    assert told == []


def run_without_this_package(code: str) -> str:
    """Run code in a process that cannot import this package or what ships it."""
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('ndx_calcium_lvm', 'nwb_calcium_lvm'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_file_is_read_without_this_package(path):
    code = f"""
try:
    import ndx_calcium_lvm
except ImportError:
    pass
else:
    raise SystemExit("not blocked")
from pynwb import NWBHDF5IO, TimeSeries
from pynwb.epoch import TimeIntervals
with NWBHDF5IO({str(path)!r}, "r", load_namespaces=True) as io:
    r = io.read().processing["ophys"][{RESULTS!r}]
    latents, states = r.inferred_series["latents"], r.inferred_series["states"]
    assert isinstance(latents, TimeSeries) and isinstance(r.segments, TimeIntervals)
    assert latents.posterior_std.name == "latents_std" and latents.model is r.model
    assert states.probabilities.name == "state_probabilities"
    rates = r.inferred_roi_series["firing_rates"]
    assert rates.posterior_std.name == "firing_rates_std" and rates.rois.table.name == "PlaneSegmentation"
    assert r.roi_parameters["decay_time"].unit == "s"
    assert r.trials.table.name == "trials"
    print(latents.data.shape, r.model.model_class, r.model.estimator_state.labeled_arrays["log_likelihood"].data)
"""
    assert run_without_this_package(code).strip() == "(40, 2) CalciumHMM -12.5"


def test_a_result_is_appended_beside_another(path, tmp_path):
    copy = tmp_path / "two.nwb"
    copy.write_bytes(path.read_bytes())
    with NWBHDF5IO(str(copy), "a") as io:
        nwbfile = io.read()
        add_results(nwbfile, name="second")
        io.write(nwbfile)
    assert validate(path=str(copy)) == []
    with NWBHDF5IO(str(copy), "r") as io:
        module = io.read().processing["ophys"]
        one, two = module[RESULTS], module["second"]
        assert one.inferred_series["latents"].model is one.model
        assert two.inferred_series["latents"].model is two.model
        assert two.inferred_roi_series["firing_rates"].posterior_std is two.inferred_roi_series["firing_rates_std"]


def test_a_file_is_exported(path, tmp_path):
    with NWBHDF5IO(str(path), "r") as source:
        expected = everything(source.read().processing["ophys"][RESULTS])
    with NWBHDF5IO(str(path), "r") as source, NWBHDF5IO(str(tmp_path / "out.nwb"), "w") as out:
        out.export(src_io=source)
    with NWBHDF5IO(str(tmp_path / "out.nwb"), "r") as io:
        assert everything(io.read().processing["ophys"][RESULTS]) == expected


@pytest.mark.filterwarnings("ignore")
def test_a_file_becomes_zarr(path, tmp_path):
    zarr = pytest.importorskip("hdmf_zarr")
    with NWBHDF5IO(str(path), "r") as source:
        expected = everything(source.read().processing["ophys"][RESULTS])
    with NWBHDF5IO(str(path), "r") as source, zarr.NWBZarrIO(str(tmp_path / "z.nwb.zarr"), "w") as out:
        out.export(src_io=source, write_args={"link_data": False})
    with zarr.NWBZarrIO(str(tmp_path / "z.nwb.zarr"), "r") as io:
        assert everything(io.read().processing["ophys"][RESULTS]) == expected
        assert validate(io=io) == []


def test_pynapple_sees_the_series(path):
    nap = pytest.importorskip("pynapple")
    data = nap.load_file(str(path))
    latents = next(data[k] for k in data if str(k).endswith("latents"))
    assert latents.shape == (40, 2)
