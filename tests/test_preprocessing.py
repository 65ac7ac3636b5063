"""Neuropil, baselines, dF/F and noise against slow definitions, known answers and holes in the data."""

import numpy as np
import pytest

from nwb_calcium_lvm import preprocessing as pp
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.provenance import Segments

FS = 10.0


@pytest.fixture
def traces():
    rng = np.random.default_rng(0)
    n = 900
    drift = 300 + 60 * np.sin(np.arange(n) / n * np.pi)
    transients = np.zeros((n, 3))
    for roi in range(3):
        for onset in rng.choice(n - 60, 8, replace=False):
            transients[onset : onset + 60, roi] += 150 * np.exp(-np.arange(60) / 10)
    return drift[:, None] + transients + rng.normal(0, 6, (n, 3)), drift


def slow_maximin(trace, window, sigma):
    """Suite2p 1.1's baseline by its definition: edges held, kernel of 3 sigma, window made odd."""
    reach = round(3 * sigma)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    smooth = np.convolve(np.pad(trace, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
    half = window // 2

    def run(values, of):
        padded = np.pad(values, half, mode="edge")
        return np.array([of(padded[i : i + 2 * half + 1]) for i in range(len(values))])

    return run(run(smooth, np.min), np.max)


@pytest.mark.parametrize(("window", "sigma"), [(20.0, 10.0), (20.1, 3.0), (500.0, 10.0)])
def test_maximin_follows_its_definition(traces, window, sigma):
    F, _ = traces
    got = pp.baseline(F, "maximin", sampling_rate=FS, window=window, sigma=sigma)
    expected = np.column_stack([slow_maximin(f, int(window * FS), sigma) for f in F.T])
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_running_percentile_is_exact_at_its_nodes_and_close_between(traces):
    F, _ = traces
    size = 200
    got = pp.baseline(F, "percentile", sampling_rate=FS, window=size / FS, percentile=8)
    starts = np.clip(np.arange(len(F)) - size // 2, 0, len(F) - size)
    exact = np.array([np.percentile(F[s : s + size], 8, axis=0) for s in starts])
    np.testing.assert_allclose(got[:: size // 20], exact[:: size // 20], rtol=1e-12)
    assert np.abs(got - exact).max() < 0.01 * exact.mean()


def test_constant_baselines(traces):
    F, _ = traces
    level = pp.baseline(F, "constant_percentile", sampling_rate=FS, percentile=20)
    np.testing.assert_allclose(level, np.broadcast_to(np.percentile(F, 20, axis=0), F.shape))
    for suite2p_name in ("prctile", "constant_prctile"):
        np.testing.assert_array_equal(pp.baseline(F, suite2p_name, sampling_rate=FS, percentile=20), level)
    # Each ROI has a minimum of its own: a dark ROI beside does not move it.
    beside = np.column_stack([F, F[:, 0] / 10])
    least = pp.baseline(F, "constant", sampling_rate=FS)
    np.testing.assert_allclose(pp.baseline(beside, "constant", sampling_rate=FS)[:, :3], least)
    assert np.ptp(least, axis=0).max() == 0


@pytest.mark.parametrize("method", ["maximin", "percentile"])
def test_baseline_follows_drift_and_gives_the_true_dff(traces, method):
    F, drift = traces
    base = pp.baseline(F, method, sampling_rate=FS, window=20, sigma=5, percentile=30)
    assert np.abs(base - drift[:, None]).max() < 0.12 * drift.mean()
    dff, usable = pp.dff(F, base)
    assert usable.all()
    np.testing.assert_allclose(dff, F / base - 1)


@pytest.mark.parametrize("method", pp.METHODS)
def test_a_hole_in_the_data_stays_where_it_is(traces, method):
    F, _ = traces
    whole = pp.baseline(F, method, sampling_rate=FS, window=20)
    holed = F.copy()
    holed[400:404, 1] = np.nan
    holed[600, 2] = 1e9  # a flash that the mask declares missing
    mask = np.ones(F.shape, bool)
    mask[600, 2] = False
    got = pp.baseline(holed, method, sampling_rate=FS, window=20, mask=mask)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, whole, rtol=0.02)
    np.testing.assert_array_equal(got[:, 0], whole[:, 0])


def test_fill_missing_interpolates_and_holds_the_ends():
    trace = np.array([np.nan, 1.0, 5.0, np.inf, 3.0, 7.0])[:, None]
    mask = np.array([True, True, False, True, True, False])
    np.testing.assert_allclose(pp.fill_missing(trace, mask)[:, 0], [1, 1, 5 / 3, 7 / 3, 3, 3])
    assert np.isnan(pp.fill_missing(np.full((4, 1), np.nan))).all()
    intact = np.ones((4, 2), np.float32)
    assert pp.fill_missing(intact) is intact


def test_neuropil_by_its_formula():
    rng = np.random.default_rng(1)
    F, Fneu = rng.normal(300, 20, (50, 2)), rng.normal(100, 20, (50, 2))
    expected = F - 0.7 * (Fneu - np.median(Fneu, axis=0))
    np.testing.assert_allclose(pp.subtract_neuropil(F, Fneu), expected)
    assert pp.subtract_neuropil(F, Fneu, 0) is F
    # The median is over what was observed.
    Fneu[:10] = 1e6
    mask = np.arange(50) >= 10
    got = pp.subtract_neuropil(F, Fneu, 0.5, mask)[10:]
    np.testing.assert_allclose(got, F[10:] - 0.5 * (Fneu[10:] - np.median(Fneu[10:], axis=0)))


def test_dff_flags_what_has_no_scale():
    rng = np.random.default_rng(2)
    F = 100 + rng.normal(0, 5, (500, 4))
    base = np.full(F.shape, 100.0)
    base[:, 1] = 4.0  # under its own noise of 5
    base[250, 2] = -1.0
    base[:, 3] = np.nan
    dff, usable = pp.dff(F, base)
    assert usable.tolist() == [True, False, False, False]
    assert np.isnan(dff[:, 1:]).all()
    np.testing.assert_allclose(dff[:, 0], F[:, 0] / 100 - 1)
    assert pp.dff(F, base, floor=1.0)[1].tolist() == [True, True, False, False]
    assert pp.dff(F, base, floor=[200.0, 0, 0, 0])[1].tolist() == [False, True, False, False]


def test_noise_level_of_white_noise():
    rng = np.random.default_rng(3)
    sd = np.array([0.05, 0.2])
    dff = rng.normal(0, sd, (40_000, 2))
    expected = 100 * sd * 0.9538725 / np.sqrt(30.0)  # median |a - b| of normal a, b is .954 sd
    np.testing.assert_allclose(pp.noise_level(dff, 30.0), expected, rtol=0.02)
    np.testing.assert_allclose(pp.frame_noise(dff), sd, rtol=0.02)


def test_noise_level_counts_steps_between_observed_neighbours_only():
    dff = np.array([0.0, 1.0, 50.0, 2.0, 5.0, 100.0, 104.0])[:, None]
    mask = np.array([True, True, False, True, True, True, True])
    segments = Segments(np.array([[0, 5], [5, 7]]))
    # Left: |1-0|, |5-2|, |104-100|; the step over the hole and the one between segments do not count.
    assert pp.noise_level(dff, 1.0, mask, segments) == pytest.approx([300.0])
    assert np.isnan(pp.noise_level(dff, 1.0, np.arange(7) == 3)).all()
    assert np.isnan(pp.noise_level(dff[:1], 1.0)).all()


def test_constant_rois():
    F = np.array([[1.0, 2.0, np.nan, 5.0], [1.0, 3.0, np.nan, np.nan], [9.0, 3.0, np.nan, 5.0]])
    mask = np.array([True, True, False])
    assert pp.constant_rois(F, mask).tolist() == [True, False, True, True]


def test_the_whole_way_and_its_dead_rois(traces):
    F, _ = traces
    rng = np.random.default_rng(4)
    Fneu = rng.normal(100, 5, F.shape)
    Fneu[:, 2] = np.nan
    F = np.column_stack([F[:, :2], np.full(len(F), 7.0)])
    dff, usable = pp.dff_from_raw(F, Fneu, sampling_rate=FS, window=20.0)
    assert usable.tolist() == [True, True, False]
    Fc = pp.subtract_neuropil(F[:, :2], Fneu[:, :2])
    base = pp.baseline(Fc, sampling_rate=FS, window=20)
    np.testing.assert_allclose(dff[:, :2], (Fc - base) / base)
    plain, _ = pp.dff_from_raw(F, sampling_rate=FS, method="percentile")
    np.testing.assert_allclose(plain[:, 0], F[:, 0] / pp.baseline(F, "percentile", sampling_rate=FS)[:, 0] - 1)


def test_float32_stays_float32(traces):
    F = traces[0].astype(np.float32)
    dff, _ = pp.dff_from_raw(F, F, sampling_rate=FS)
    assert dff.dtype == np.float32
    for method in pp.METHODS:
        assert pp.baseline(F, method, sampling_rate=FS).dtype == np.float32


@pytest.mark.parametrize("method", pp.METHODS)
def test_short_recordings(method):
    assert pp.baseline([[3.0]], method, sampling_rate=30.0).tolist() == [[3.0]]
    assert np.isfinite(pp.baseline(np.arange(7.0)[:, None], method, sampling_rate=30.0)).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda F: pp.baseline(F, "median", sampling_rate=1.0), "Expected one of maximin"),
        (lambda F: pp.baseline(F, sampling_rate=0.0), "sampling_rate=0.0"),
        (lambda F: pp.baseline(F, sampling_rate=1.0, window=-1.0), "window=-1.0"),
        (lambda F: pp.baseline(F, sampling_rate=1.0, sigma=np.nan), "sigma=nan"),
        (lambda F: pp.baseline(F, sampling_rate=1.0, percentile=101.0), "percentile=101.0"),
        (lambda F: pp.baseline(F[:, 0], sampling_rate=1.0), r"Expected \(time, roi\)"),
        (lambda F: pp.baseline(F[:0], sampling_rate=1.0), "no frame"),
        (lambda F: pp.baseline(F, sampling_rate=1.0, mask=np.ones(3)), "Expected booleans"),
        (lambda F: pp.baseline(F, sampling_rate=1.0, mask=np.ones(7, bool)), "Expected booleans"),
        (lambda F: pp.subtract_neuropil(F, F[:-1]), "Expected one neuropil trace per ROI"),
        (lambda F: pp.subtract_neuropil(F, F, -0.1), "from 0 to 2"),
        (lambda F: pp.dff(F, F[:, :1]), "Expected the same"),
        (lambda F: pp.noise_level(F, 0.0), "not a rate"),
    ],
)
def test_errors_say_what_to_do(call, says):
    with pytest.raises(DataError, match=says):
        call(np.ones((5, 2)))
