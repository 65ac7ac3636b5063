"""Planes imaged one after the other: when, and their traces at one time."""

import numpy as np
import pytest
from _suite2p_folders import FakePlane, write_suite2p_folder

from nwb_calcium_lvm import Recording, read_suite2p
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.preprocessing import at_frame_times
from nwb_calcium_lvm.provenance import Segments


def ramps(offsets, rate=10.0, n=40, **options):
    """ROIs that all see the time itself, each when it is its turn."""
    times = np.arange(n) / rate
    return Recording(times[:, None] + np.asarray(offsets), sampling_rate=rate, **options), times


def test_what_was_seen_later_is_brought_to_the_frame():
    offsets = [0.0, 0.02, 0.075]
    recording, times = ramps(offsets, roi_metadata={"time_offset": offsets})
    moved = at_frame_times(recording)
    np.testing.assert_allclose(moved.dff[1:], np.repeat(times[1:, None], 3, axis=1), atol=1e-9)
    np.testing.assert_array_equal(moved.dff[0], recording.dff[0])
    assert (moved.roi_metadata["time_offset"] == 0).all()
    np.testing.assert_array_equal(moved.timestamps, recording.timestamps)


def test_missing_samples_and_gaps_stay_what_they_are():
    mask = np.ones((40, 2), bool)
    mask[10, 1] = False
    segments = Segments(np.array([[0, 20], [20, 40]]))
    recording, times = ramps([0.0, 0.05], mask=mask, segments=segments)
    moved = at_frame_times(recording, [0.0, 0.05])
    assert np.flatnonzero(~moved.mask[:, 1]).tolist() == [10, 11]
    assert moved.mask[:, 0].all()
    assert moved.dff[20, 1] == recording.dff[20, 1]  # nothing comes across the cut
    np.testing.assert_allclose(moved.dff[21:, 1], times[21:], atol=1e-9)


def test_suite2p_says_when_its_planes_were_imaged(tmp_path):
    write_suite2p_folder(tmp_path, [FakePlane(seed=0), FakePlane(seed=1)])
    recording = read_suite2p(tmp_path / "suite2p")
    plane, offset = recording.roi_metadata["plane"], recording.roi_metadata["time_offset"]
    np.testing.assert_allclose(offset, plane / (2 * recording.sampling_rate))
    assert at_frame_times(recording).shape == recording.shape
    one = read_suite2p(tmp_path / "suite2p", plane=1)
    np.testing.assert_allclose(one.roi_metadata["time_offset"], 0.5 / one.sampling_rate)


def test_one_plane_has_no_offset(tmp_path):
    write_suite2p_folder(tmp_path, [FakePlane(seed=0)])
    recording = read_suite2p(tmp_path / "suite2p")
    assert "time_offset" not in recording.roi_metadata
    with pytest.raises(DataError, match="several planes"):
        at_frame_times(recording)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [([0.0], "one per ROI"), ([0.0, 0.1], "less than the time"), ([-0.01, 0.0], "Expected 0 or more")],
)
def test_offsets_that_cannot_be_are_refused(offsets, message):
    with pytest.raises(DataError, match=message):
        at_frame_times(ramps([0.0, 0.0])[0], offsets)
    with pytest.raises(DataError, match="no clock"):
        at_frame_times(Recording(np.random.default_rng(0).normal(size=(9, 2))), [0.0, 0.0])
