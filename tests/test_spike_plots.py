"""Pictures of spike inference show what they were given."""

from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest

from nwb_calcium_lvm import OASISSpikeEstimator, Recording, plotting
from nwb_calcium_lvm.result import NamedArray


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    recording = Recording(rng.random((900, 2)), sampling_rate=30.0)
    return recording, OASISSpikeEstimator(spike_amplitude=0.2).fit(recording).infer(recording)


def test_rates_under_their_trace(case):
    recording, result = case
    ax = plotting.spike_rates(result, recording, roi=1, spikes=[3.0, 100.0], window=(2.0, 10.0))
    assert ax.get_xlim() == (2.0, 10.0)
    trace = ax.lines[0].get_ydata()
    shown = (result.time >= 2.0) & (result.time <= 10.0)
    assert np.corrcoef(trace, recording.dff[shown, 1])[0, 1] == pytest.approx(1.0)
    ticks = ax.collections[-1].get_segments()
    assert [t[0, 0] for t in ticks] == [3.0]
    ax.figure.savefig(BytesIO())
    assert len(plotting.spike_rates(result).lines) == 0
    with pytest.raises(ValueError, match="holds no frame"):
        plotting.spike_rates(result, window=(50.0, 60.0))


def test_calcium_without_noise_over_its_trace(case):
    recording, result = case
    calcium = NamedArray(recording.dff - 0.1, ("time", "roi"), "dF/F", "Trace without noise.")
    shown = replace(result, arrays={**result.arrays, "calcium": calcium})
    ax = plotting.spike_rates(shown, recording, roi=1)
    trace, smooth = (line.get_ydata() for line in ax.lines)
    step = np.ptp(trace) / np.ptp(recording.dff[:, 1])
    np.testing.assert_allclose(trace - smooth, 0.1 * step)  # both on one scale


def test_layers_one_below_the_other():
    layers = {"time": np.arange(300) / 50, "input": np.ones(300), "analysis": np.zeros(300), "output": np.ones(300)}
    figure = plotting.layer_outputs(layers, window=(0.0, 2.0))
    assert [ax.get_ylabel() for ax in figure.axes] == ["input", "analysis", "output"]
    assert len(figure.axes[0].lines[0].get_xdata()) == 101


def test_frequencies():
    response = SimpleNamespace(frequency=np.arange(5.0), analysis=np.ones(5), synthesis=np.linspace(1, 0, 5))
    ax = plotting.frequency_response(response)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), response.synthesis)
