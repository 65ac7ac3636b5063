"""Results of any shape, and whether two are the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nwb_calcium_lvm.io._plain import NO_DESCRIPTION, NO_UNIT, to_json
from nwb_calcium_lvm.provenance import Segments, Source
from nwb_calcium_lvm.result import FittedState, InferenceResult, NamedArray

# NWB text cannot hold NUL or half characters; two phrases stand for nothing.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8).filter(
    lambda t: t not in (NO_UNIT, NO_DESCRIPTION)
)
keys = st.one_of(
    text,
    st.sampled_from(
        ["model", "roi_ids", "time", "time_", "segments", "a/b", ".", "", "bouts", "source", "id", "name_"]
    ),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
dtypes = st.sampled_from(["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])


def values(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Numbers, booleans or text of a shape."""
    numbers = dtypes.flatmap(lambda d: hnp.arrays(d, shape))
    words = hnp.arrays(object, shape, elements=text, fill=st.nothing()).map(lambda a: a.astype(str))
    # An array of text that is empty keeps its shape only.
    return numbers | words if 0 not in shape else numbers


@st.composite
def named(draw: Any, shape: tuple[int, ...], dims: tuple[str, ...]) -> NamedArray:
    array = draw(values(shape))
    unit = draw(st.sampled_from(["Hz", "state", "probability", "spikes", ""]) | text)
    return NamedArray(array, dims, unit, draw(text))


@st.composite
def times_and_segments(draw: Any) -> tuple[np.ndarray, Segments, float | None, str]:
    """Regular, irregular, in trials in any order, overlapping, or without a clock."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    ends = np.cumsum(lengths)
    n_frames = int(ends[-1])
    ids = draw(
        st.none()
        | st.permutations(range(len(lengths))).map(np.array)
        | hnp.arrays(object, len(lengths), elements=text).map(lambda a: a.astype(str))
    )
    segments = Segments(np.column_stack([[0, *ends[:-1]], ends]), ids)
    rate = draw(st.sampled_from([30.0, 4.53, 100.0]))
    start = draw(st.sampled_from([0.0, 12.34, -3.0, 7200.1]))
    kind = draw(st.sampled_from(["rate", "irregular", "trials", "overlap", "frames"]))
    if kind == "frames":
        return np.arange(n_frames, dtype=float), segments, None, "frames"
    time = start + np.arange(n_frames) / rate
    if kind == "irregular":
        time = time + np.cumsum(draw(hnp.arrays("f8", n_frames, elements=st.floats(0.001, 1))))
    elif kind in ("trials", "overlap"):
        step = 10.0 if kind == "trials" else 1 / rate
        places = draw(st.permutations(range(len(lengths))))
        time = np.concatenate([start + step * p + np.arange(n) / rate for p, n in zip(places, lengths, strict=True)])
    return time, segments, draw(st.sampled_from([rate, None])), "s"


@st.composite
def results(draw: Any, name: str = "a result") -> InferenceResult:
    """Any result of traces that were in memory."""
    time, segments, rate, unit = draw(times_and_segments())
    n_rois = draw(st.integers(1, 4))
    sizes = {"time": len(time), "roi": n_rois, "state": 3, "latent": 2, "trial": len(segments), "one": 1, "none": 0}
    over_time = st.sampled_from(
        [("time",), ("time", "roi"), ("time", "state"), ("time", "latent"), ("time", "one", "roi")]
    )
    others = st.sampled_from(
        [(), ("one",), ("trial", "latent"), ("none",), ("state", "none"), ("roi",), ("roi", "one")]
    )
    arrays = {}
    for key in draw(st.lists(keys, max_size=3, unique=True)):
        dims = draw(over_time | others)
        arrays[key] = draw(named(tuple(sizes[d] for d in dims), dims))
    parameters = {}
    for key in draw(st.lists(keys, max_size=4, unique=True)):
        dims = draw(others)
        parameters[key] = draw(named(tuple(sizes[d] for d in dims), dims))
    facts = {
        k: draw(values((n_rois, *w))) for k in draw(st.lists(keys, max_size=2, unique=True)) for w in [(), (2,)][:1]
    }
    history = draw(st.none() | hnp.arrays("f8", st.integers(0, 3), elements=st.floats(-1e6, 1e6)))
    ids = draw(st.just(np.arange(n_rois) * 3) | st.just(np.array([f"cell {i}" for i in range(n_rois)])))
    state = draw(
        st.none()
        | st.dictionaries(keys, values((2, 1)) | values(()) | values((1,)) | values((0, 2)), max_size=3).map(
            lambda found: FittedState({"class": "CalciumHMM", "parameters": {"tol": 1e-5}, "fitted": {}}, found)
        )
    )
    return InferenceResult(
        arrays=arrays,
        parameters=parameters,
        time=time,
        roi_ids=ids,
        segments=segments,
        model={
            "name": name,
            # One text stands for none in a file; hypothesis tries constants that it finds in the code.
            "description": draw(text.filter(lambda said: said != NO_DESCRIPTION)),
            "hyperparameters": draw(st.dictionaries(text, plain, max_size=3)),
            "random_state": draw(st.none() | st.integers(0, 2**31)),
            "n_iter": draw(st.integers(0, 1000)),
            **({} if history is None else {"objective_history": history}),
            **draw(st.dictionaries(text.filter(lambda k: k not in _MODEL), plain, max_size=2)),
        },
        converged=draw(st.booleans()),
        time_unit=unit,
        sampling_rate=rate,
        source=draw(sources(n_rois)),
        metadata=draw(st.dictionaries(text.filter(lambda k: k not in _SESSION), plain, max_size=3)),
        roi_metadata=facts,
        is_regular=draw(st.booleans()),
        versions=draw(st.dictionaries(text, text, max_size=2)),
        fitted=state,
    )


_MODEL = {"name", "description", "random_state", "n_iter", "objective", "log_likelihood", "fit_datetime"}
_SESSION = {"session_start_time", "identifier", "session_id", "session_description", "indicator", "location"}


@st.composite
def sources(draw: Any, n_rois: int) -> Source:
    numbers = st.none() | st.just(np.arange(n_rois)[::-1] + 2)
    paths = st.none() | st.sampled_from(["processing/ophys/a", "processing/ophys/a + processing/ophys/b"])
    planes = st.none() | st.just(np.arange(n_rois) % 2)
    # Planes are also a column of the table of a new file.
    return Source(
        "array", None, draw(paths), draw(paths), None, draw(numbers), draw(planes), draw(st.none() | st.just("x"))
    )


def assert_same(a: InferenceResult, b: InferenceResult) -> None:
    """Two results hold the same values of the same types, in the same order."""
    for store in ("arrays", "parameters"):
        left, right = getattr(a, store), getattr(b, store)
        assert list(left) == list(right)
        for key, array in left.items():
            _same_values(array.values, right[key].values, key)
            assert array[1:] == right[key][1:], key
    assert list(a.roi_metadata) == list(b.roi_metadata)
    for key, fact in a.roi_metadata.items():
        _same_values(fact, b.roi_metadata[key], key)
    np.testing.assert_allclose(b.time, a.time, rtol=0, atol=1e-7)
    _same_values(a.roi_ids, b.roi_ids, "roi_ids")
    np.testing.assert_array_equal(a.segments.bounds, b.segments.bounds)
    assert (a.segments.trial_ids is None) == (b.segments.trial_ids is None)
    if a.segments.trial_ids is not None:
        _same_values(a.segments.trial_ids, b.segments.trial_ids, "trial_ids")
    history = [np.asarray(r.model.get("objective_history", ()), float) for r in (a, b)]
    np.testing.assert_array_equal(*history)
    models = [{k: v for k, v in r.model.items() if k != "objective_history"} for r in (a, b)]
    for left, right in [models, [a.metadata, b.metadata]]:
        assert json.dumps(json.loads(to_json(left)), sort_keys=True) == json.dumps(right, sort_keys=True)
    for key in ("converged", "time_unit", "sampling_rate", "is_regular", "versions"):
        assert getattr(a, key) == getattr(b, key), key
    for key in ("kind", "path", "series", "neuropil", "plane_segmentation", "object_id"):
        assert getattr(a.source, key) == getattr(b.source, key), key
    for key in ("table_rows", "planes"):
        left, right = getattr(a.source, key), getattr(b.source, key)
        assert (left is None) == (right is None)
        if left is not None:
            np.testing.assert_array_equal(left, right)
    assert (a.fitted is None) == (b.fitted is None)
    if a.fitted is not None and b.fitted is not None:
        assert {**b.fitted.header, **json.loads(json.dumps(a.fitted.header))} == b.fitted.header
        assert set(a.fitted.arrays) == set(b.fitted.arrays)
        for key, array in a.fitted.arrays.items():
            _same_values(array, b.fitted.arrays[key], key)


def _same_values(a: Any, b: Any, key: str) -> None:
    left, right = np.asarray(a), np.asarray(b)
    left = left.astype(str) if left.dtype.kind == "O" else left
    assert left.dtype.kind == right.dtype.kind, (key, left.dtype, right.dtype)
    assert left.dtype == right.dtype or left.dtype.kind == "U", (key, left.dtype, right.dtype)
    assert left.shape == right.shape, key
    np.testing.assert_array_equal(left, right, err_msg=key)
