"""Single spikes: where they are put, how sure they are, and where they are found in a file."""

import shutil

import numpy as np
import pytest
from _spike_networks import untrained
from pynwb import NWBHDF5IO
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.stats import nbinom, norm

from nwb_calcium_lvm import OASISSpikeEstimator, Recording, S2SSpikeEstimator, read_results, write_nwb
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.metrics import match_spikes
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.spikes import PUBLISHED
from nwb_calcium_lvm.spikes.calibration import at_least
from nwb_calcium_lvm.spikes.events import find_spikes


def bumps(times, sizes, seconds=20.0, rate=50.0, sd=0.04, start=0.0):
    grid = start + np.arange(int(seconds * rate)) / rate
    return sum(n * norm.pdf(grid, t, sd) for t, n in zip(times, sizes, strict=True))


def test_isolated_spikes_stand_where_they_were():
    true = np.array([1.003, 4.5, 9.987, 10.6])
    found = find_spikes(bumps(true - 100, np.ones(4), start=-100.0)[:, None], -100.0, 50.0, 0.0, 0.5)
    np.testing.assert_allclose(found.times[0], true - 100, atol=2e-3)
    # A Poisson count of mean 1 is 1 or more with probability 1 - 1/e (but for what lies beyond 0.15 s).
    np.testing.assert_allclose(found.confidence[0], 1 - np.exp(-1), atol=1e-3)


def test_several_spikes_of_one_peak_are_spread_over_it_and_ever_less_sure():
    found = find_spikes(bumps([5.0], [3.0])[:, None], 0.0, 50.0, 0.3, 0.05)
    law = nbinom(1 / 0.3, 1 / (1 + 0.3 * 3.0))
    expected = [law.sf(k - 1) for k in range(1, 20)]
    expected = np.array([p for p in expected if p >= 0.05])
    np.testing.assert_allclose(found.confidence[0], expected, atol=1e-3)
    assert len(expected) > 4
    times = found.times[0]
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(times + times[::-1], 10.0, atol=1e-3)  # as many before the peak as after it

    middle = (np.arange(len(times)) + 0.5) / len(times)
    np.testing.assert_allclose(times, 5.0 + 0.04 * norm.ppf(middle), atol=3e-3)


def test_close_peaks_share_at_the_valley_between_them():
    two = find_spikes(bumps([5.0, 5.16], [1.0, 2.0])[:, None], 0.0, 50.0, 0.0, 0.5)
    assert abs(two.times[0][0] - 5.0) < 0.02
    assert (np.abs(two.times[0][1:] - 5.16) < 0.06).all()
    # Nothing is counted twice: what all peaks expect is what there is.
    rates = bumps([5.0, 5.16, 5.3], [1.0, 1.0, 1.0])
    from nwb_calcium_lvm.spikes.events import _around_peaks

    first, last = _around_peaks(rates, 8)
    assert (first[1:] >= last[:-1]).all()


def test_a_rate_that_stays_low_holds_no_spike():
    rng = np.random.default_rng(0)
    found = find_spikes(0.3 + 0.05 * rng.random((5000, 2)), 0.0, 50.0, 0.5, 0.5)
    assert [len(t) for t in found.times] == [0, 0]
    nan = find_spikes(np.full((100, 1), np.nan), 0.0, 50.0, 0.5, 0.5)
    assert len(nan.times[0]) == 0


def test_confidence_falls_with_the_threshold_and_dispersion():
    rates = bumps([2.0, 6.0, 12.0], [0.5, 1.0, 2.0])[:, None]
    n = [len(find_spikes(rates, 0.0, 50.0, 0.3, t).times[0]) for t in (0.1, 0.3, 0.5, 0.9)]
    assert n == sorted(n, reverse=True)
    assert n[0] > n[-1]
    tight, wide = (at_least(1, np.array([1.0]), d)[0] for d in (0.0, 2.0))
    assert tight == pytest.approx(1 - np.exp(-1))
    assert wide == pytest.approx(1 - 3 ** (-0.5))  # (1 + φ m)^(-1/φ) is the chance of none


def test_as_many_as_are_expected_where_nothing_else_is_asked_for():
    sizes = np.array([0.4, 0.6, 1.3, 2.6, 5.2])
    found = find_spikes(bumps(2.0 + 2 * np.arange(5), sizes)[:, None], 0.0, 50.0, 1.0, None)
    n = np.histogram(found.times[0], np.arange(1.0, 13.0, 2.0))[0]
    np.testing.assert_array_equal(n, [0, 1, 1, 3, 5])
    law = [nbinom(1.0, 1.0 / (1.0 + m)).sf(np.arange(k)) for m, k in zip(sizes, n, strict=True)]
    np.testing.assert_allclose(found.confidence[0], np.concatenate(law), atol=2e-3)


def test_confidences_are_probabilities_where_the_law_holds():
    """Rates known exactly: of spikes said to be as likely as c, c are there."""
    rng = np.random.default_rng(0)
    sure, hit = [], []
    pulse = norm.pdf(np.arange(-25, 26) / 50, 0.0, 0.04)
    for dispersion in (0.0, 1.0):
        mean = rng.gamma(2.0, 0.7, 1000)
        n = rng.poisson(mean) if dispersion == 0 else rng.negative_binomial(1.0, 1.0 / (1.0 + mean))
        peaks = 2.0 * np.arange(1, 1001)
        impulses = np.zeros(100_200)
        impulses[np.round(50 * peaks).astype(int)] = mean
        true = np.repeat(peaks, n)
        found = find_spikes(np.convolve(impulses, pulse, "same")[:, None], 0.0, 50.0, dispersion, 0.2)
        is_true, _ = match_spikes(found.times[0], true, 0.2)
        sure.append(found.confidence[0])
        hit.append(is_true)
    sure, hit = np.concatenate(sure), np.concatenate(hit)
    for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0)):
        within = (sure >= low) & (sure < high)
        assert hit[within].mean() == pytest.approx(sure[within].mean(), abs=0.05)


def test_matching_pairs_as_many_as_can_be():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = np.sort(rng.uniform(0, 3, 12)), np.sort(rng.uniform(0, 3, 9))
        is_true, is_found = match_spikes(a, b, 0.1)
        assert is_true.sum() == is_found.sum() == most_pairs(a, b, 0.1)


def most_pairs(a, b, tolerance):

    near = csr_array(np.abs(a[:, None] - b) <= tolerance)
    return int((maximum_bipartite_matching(near, perm_type="column") >= 0).sum())


# -- From traces ------------------------------------------------------------------------------------------------------


def test_spikes_of_a_simulated_session_are_found():
    from nwb_calcium_lvm.simulate import session

    made = session(
        n_states=2, n_rois=6, duration=120.0, sampling_rate=30.0, indicator="gcamp6f", nu=1.0, random_state=1
    )
    recording = made.recording()
    s2s = S2SSpikeEstimator.from_pretrained()
    found = s2s.predict_spikes(recording)
    edges = np.append(recording.timestamps, recording.timestamps[-1] + 1 / 30) - 1 / 60
    hits = truths = n = 0
    for roi in range(6):
        true = np.sort(np.repeat(edges[:-1] + 1 / 60, np.asarray(made.spikes)[:, roi]))
        is_true, _ = match_spikes(found.times[roi], true)
        hits, truths, n = hits + is_true.sum(), truths + len(true), n + len(is_true)
        assert ((found.confidence[roi] > 0) & (found.confidence[roi] <= 1)).all()
        assert (np.diff(found.times[roi]) >= 0).all()
    assert 2 * hits / (n + truths) > 0.6


def test_a_lag_moves_spikes_later():
    recording = Recording(np.random.default_rng(0).normal(size=(300, 1)) / 10, sampling_rate=30.0)
    prompt, late = (untrained(lag=lag).predict_spikes(recording, threshold=0.05) for lag in (0.0, 1.0))
    assert len(prompt.times[0]) > 3
    np.testing.assert_allclose(late.times[0], prompt.times[0] + 1.0, atol=1e-9)


def test_lists_trials_and_dead_rois():
    s2s = untrained()
    x = np.random.default_rng(0).normal(size=(300, 3)) / 10
    x[:, 1] = 0.0
    whole = Recording(x, sampling_rate=30.0)
    trials = Recording(x, sampling_rate=30.0, segments=Segments(np.array([[0, 100], [100, 300]])))
    with pytest.warns(match="constant or never observed"):
        found = s2s.predict_spikes([whole, trials], threshold=0.01)
    assert [len(f.times) for f in found] == [3, 3]
    assert len(found[0].times[1]) == 0
    assert (found[1].times[0] >= -0.1).all()
    with pytest.raises(DataError, match="not a confidence"):
        s2s.predict_spikes(whole, threshold=1.5)
    with pytest.raises(DataError, match="no calibrated rates"):
        untrained(PUBLISHED.changed(dense_layers=1)).predict_spikes(whole)
    with pytest.raises(DataError, match="finds no single spikes"):
        OASISSpikeEstimator(spike_amplitude=0.2).fit(whole).infer(whole, spikes=0.5)


# -- In a file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", ["extension", "core"])
@pytest.mark.parametrize("threshold", [0.05, 0.999999])
def test_spikes_are_a_table_of_units_that_anyone_reads(tmp_path, schema, threshold):
    s2s = untrained()
    recording = Recording(np.random.default_rng(0).normal(size=(600, 3)) / 10, sampling_rate=30.0)
    assert s2s.infer(recording).spikes is None
    some = s2s.infer(recording, spikes=True).spikes
    np.testing.assert_array_equal(some.times[1], s2s.predict_spikes(recording).times[1])
    result = s2s.infer(recording, spikes=threshold)
    alone = s2s.predict_spikes(recording, threshold=threshold)
    path = write_nwb(result, tmp_path / "a.nwb", name="s2s", source=recording, schema=schema)
    with NWBHDF5IO(path, "r") as io:
        table = io.read().processing["ophys"]["s2s_spikes"]
        assert table.neurodata_type == "Units"
        assert len(table) == 3
        for roi in range(3):
            np.testing.assert_allclose(table["spike_times"][roi], alone.times[roi])
            np.testing.assert_allclose(table["confidence"][roi], alone.confidence[roi])
    if threshold < 0.5:
        assert sum(map(len, alone.times)) > 20
        nap = pytest.importorskip("pynapple")
        group = nap.load_file(str(shutil.copy(path, tmp_path / "copy.nwb")))["s2s_spikes"]
        assert len(group) == 3
        np.testing.assert_allclose(group[1].t, alone.times[1], atol=1e-6)
    if schema == "core":
        return
    back = read_results(path, "s2s")
    for roi in range(3):
        np.testing.assert_array_equal(back.spikes.times[roi], result.spikes.times[roi])
        np.testing.assert_array_equal(back.spikes.confidence[roi], result.spikes.confidence[roi])
    # A result that replaces it takes its spikes away, too.
    write_nwb(s2s.infer(recording), path, name="s2s", source=recording, overwrite=True)
    assert read_results(path, "s2s").spikes is None
    with NWBHDF5IO(path, "r") as io:
        assert "s2s_spikes" not in io.read().processing["ophys"].data_interfaces
