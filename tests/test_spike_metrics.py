"""Scores of spike predictions: hand-made cases, and agreement with an independent script on real recordings."""

import importlib.util
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from nwb_calcium_lvm import metrics
from nwb_calcium_lvm.metrics import ScoredSegment, SpikeScoring, score_spikes

DATA = os.environ.get("NWB_CALCIUM_LVM_DATA")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def draw_spikes(rng, duration=60.0, mean=2.0):
    return np.sort(rng.uniform(0, duration, rng.poisson(mean * duration)))


def test_the_truth_itself_scores_one(rng):
    spikes = draw_spikes(rng)
    # Bins of the raw comparison begin 1.1 s after the start: put the prediction's samples into the same bins.
    start = 1.1 + 0.02
    counts = np.histogram(spikes, 1.1 + np.arange(1500) / 25.0)[0]
    scores = score_spikes([ScoredSegment(counts * 25.0, 25.0, start, 58.0, spikes)], SpikeScoring(trim=0.98))
    assert scores is not None
    assert scores.pearson == pytest.approx(1.0, abs=1e-9)
    assert scores.auc == 1.0


def test_by_hand(rng):
    spikes = draw_spikes(rng)
    rate = rng.gamma(1.0, 2.0, size=1801)
    scores = score_spikes([ScoredSegment(rate, 30.0, 0.0, 60.0, spikes)])
    assert scores is not None
    # The prediction in bins of 40 ms, by brute force on a clock of 1200 Hz (40 samples a frame, 48 a bin).
    fine = np.repeat(rate, 40) / 1200
    edges = np.arange(1.1, 58.9, 0.04)
    first = np.round((edges + 1 / 60) * 1200).astype(int)
    binned = np.array([fine[a:b].sum() for a, b in pairwise(first)])
    counts = np.histogram(spikes, edges)[0]
    assert scores.pearson == pytest.approx(np.corrcoef(binned, counts)[0, 1], abs=1e-9)
    assert scores.spearman == pytest.approx(spearmanr(binned, counts).statistic, abs=1e-9)
    assert scores.auc == pytest.approx(roc_auc_score(counts > 0, binned), abs=1e-9)
    assert scores.n_spikes == counts.sum()


def test_bias_and_error_of_a_scaled_truth(rng):
    spikes = draw_spikes(rng)
    grid = np.arange(1801) / 30
    counts = np.histogram(spikes, np.append(grid, grid[-1] + 1 / 30) - 1 / 60)[0]
    smooth = gaussian_filter1d(counts.astype(float), 1.5, mode="constant") * 30
    scores = score_spikes([ScoredSegment(1.5 * smooth, 30.0, 0.0, 60.0, spikes)])
    assert scores is not None
    assert (scores.bias, scores.error) == pytest.approx((0.5, 0.5), abs=1e-9)
    assert scores.smooth_pearson == pytest.approx(1.0, abs=1e-9)


def test_a_lag_is_undone(rng):
    spikes = draw_spikes(rng)
    times = np.arange(6001) / 100
    counts = np.histogram(spikes, np.append(times, times[-1] + 0.01) - 0.005)[0] * 100.0
    late = np.roll(counts, 5)
    prompt = score_spikes([ScoredSegment(counts, 100.0, 0.0, 60.0, spikes)])
    delayed = score_spikes([ScoredSegment(late, 100.0, 0.0, 60.0, spikes)], SpikeScoring(lag=0.05))
    assert prompt is not None
    assert delayed is not None
    assert delayed.pearson == pytest.approx(prompt.pearson, abs=1e-9)


def test_scale_and_offset_change_no_correlation_and_a_constant_scores_zero(rng):
    spikes = draw_spikes(rng)
    rate = rng.random(1801)
    a = score_spikes([ScoredSegment(rate, 30.0, 0.0, 60.0, spikes)])
    b = score_spikes([ScoredSegment(3 * rate + 7, 30.0, 0.0, 60.0, spikes)])
    flat = score_spikes([ScoredSegment(np.ones(1801), 30.0, 0.0, 60.0, spikes)])
    assert a is not None
    assert b is not None
    assert flat is not None
    assert (a.pearson, a.spearman, a.auc) == pytest.approx((b.pearson, b.spearman, b.auc))
    assert flat.smooth_pearson == 0.0


def test_too_few_spikes_or_too_short_is_not_scored():
    rate = np.ones(1801)
    assert score_spikes([ScoredSegment(rate, 30.0, 0.0, 60.0, [3.0, 20.0])]) is None
    assert score_spikes([ScoredSegment(rate, 30.0, 0.0, 3.1, np.arange(1.2, 2, 0.1))]) is None
    with pytest.raises(ValueError, match="None of 1 neurons"):
        metrics.summarise_spikes([None])


def test_summary_is_mean_and_median(rng):
    scores = []
    for _ in range(4):
        spikes = draw_spikes(rng)
        scores.append(score_spikes([ScoredSegment(rng.random(1801), 30.0, 0.0, 60.0, spikes)]))
    summary = metrics.summarise_spikes([*scores, None])
    assert summary.n_neurons == 4
    assert summary.p25 == pytest.approx(np.mean([s.pearson for s in scores]))
    assert summary.c30 == pytest.approx(np.median([s.smooth_pearson for s in scores]))


def reference():
    """The script that the project's published scores were first computed with, where it lies beside the data."""
    path = Path(DATA or ".").parent / "tools" / "score_spikes.py"
    if not path.is_file():
        pytest.skip("needs the reference script beside the data")
    spec = importlib.util.spec_from_file_location("score_spikes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="needs NWB_CALCIUM_LVM_DATA")
@pytest.mark.parametrize("dataset", ["DS04-OGB1-zf-pDp", "DS10-GCaMP6f-m-V1-neuropil-corrected", "DS18-R-CaMP-m-CA3"])
@pytest.mark.parametrize("lag", [0.0, 0.05])
def test_agrees_with_the_reference_on_real_recordings(dataset, lag, rng):
    tool = reference()
    truth = tool.load(dataset)
    predictions = {k: np.maximum(tool.resample(s, 50.0), 0) + 0.1 * rng.random() for k, s in truth.items()}
    theirs = {r["file"]: r for r in tool.score(predictions, 50.0, truth, lag=lag)}
    ours = {}
    for name in sorted({k[1] for k in truth}):
        segments = [
            ScoredSegment(predictions[k], 50.0, s["t"][0], s["t"][-1], s["spikes"])
            for k, s in truth.items()
            if k[1] == name
        ]
        if (scores := score_spikes(segments, SpikeScoring(lag=lag))) is not None:
            ours[name] = scores
    assert sorted(ours) == sorted(theirs)
    for name, mine in ours.items():
        row = theirs[name]
        expected = [row[k] for k in ("pearson25", "spearman25", "auc25", "cascade30", "bias", "error", "spikes")]
        found = [mine.pearson, mine.spearman, mine.auc, mine.smooth_pearson, mine.bias, mine.error, mine.n_spikes]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    summary = metrics.summarise_spikes(list(ours.values()))
    whole = tool.summary(list(theirs.values()))[dataset]
    assert summary.p25 == pytest.approx(whole["pearson25"], abs=1e-4)
    assert summary.c30 == pytest.approx(whole["cascade30_median"], abs=1e-4)
