"""Plots: headless, without pyplot, showing what they were given."""

import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib._pylab_helpers import Gcf
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from nwb_calcium_lvm import plotting
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray

N_STATES, N_ROIS, N_FRAMES = 3, 6, 300


def make_result(n_frames=N_FRAMES, n_states=N_STATES, segments=None, rate=10.0):
    rng = np.random.default_rng(0)
    path = np.repeat(rng.integers(n_states, size=n_frames // 10 + 1), 10)[:n_frames]
    matrix = np.full((n_states, n_states), 0.1 / max(1, n_states - 1))
    np.fill_diagonal(matrix, 0.9)
    return InferenceResult(
        arrays={
            "states": NamedArray(path, ("time",), "1", "path"),
            "state_probabilities": NamedArray(np.eye(n_states)[path], ("time", "state"), "1", "posterior"),
        },
        parameters={
            "state_rates": NamedArray(rng.random((N_ROIS, n_states)), ("roi", "state"), "Hz", "rates"),
            "transition_matrix": NamedArray(matrix, ("state", "state"), "1", "transitions"),
        },
        time=np.arange(n_frames) / (rate or 1.0),
        time_unit="s" if rate else "frames",
        roi_ids=np.arange(100, 100 + N_ROIS),
        segments=segments or Segments(np.array([[0, n_frames]])),
        sampling_rate=rate,
        model={"name": "CalciumHMM", "n_iter": 4, "objective_history": [-50.0, -20.0, -11.0, -10.0]},
        converged=True,
    )


def make_recording(n_frames=N_FRAMES, **kwargs):
    traces = np.random.default_rng(1).normal(size=(n_frames, N_ROIS))
    return Recording(traces, sampling_rate=10.0, roi_ids=np.arange(100, 100 + N_ROIS), **kwargs)


def draw(ax):
    ax.figure.savefig(BytesIO(), format="png")


@pytest.fixture
def result():
    return make_result()


def test_states_ribbon_has_the_colour_of_each_state_where_it_is(result):
    ax = plotting.states(result)
    colors = plotting.state_colors(N_STATES)
    for state, bars in enumerate(ax.collections):
        assert to_hex(bars.get_facecolor()[0]).upper() == colors[state].upper()
        shown = sum(path.get_extents().width for path in bars.get_paths())
        assert shown == pytest.approx(np.sum(result["states"] == state) / 10.0)
    assert ax.get_xlabel() == "Time (s)"


def test_states_of_a_bare_array_are_on_frames_and_take_a_time():
    ax = plotting.states(np.array([0, 0, 1, 1]))
    assert ax.get_xlabel() == "Frame"
    assert ax.get_xlim() == (-0.5, 3.5)
    assert plotting.states([0, 1, 1], time=[5.0, 6.0, 7.0], n_states=4, ax=ax) is ax


def test_traces_show_the_rois_asked_for_and_leave_missing_samples_blank():
    mask = np.ones((N_FRAMES, N_ROIS), bool)
    mask[50:60, 2] = False
    recording = make_recording(mask=mask)
    ax = plotting.traces(recording, roi=[2, 4])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["102", "104"]
    first = ax.lines[0].get_ydata()
    assert np.isnan(first[50:60]).all()
    assert np.isfinite(np.delete(first, np.s_[50:60])).all()
    np.testing.assert_allclose(np.diff(first[:50]), np.diff(recording.dff[:50, 2]))
    assert any("dF/F" in text.get_text() for text in ax.texts)


def test_traces_choose_what_varies_most_for_its_noise():
    rng = np.random.default_rng(0)
    traces = 0.1 * rng.normal(size=(500, 30)) * np.arange(1, 31)
    traces[200:260, 7] += 8.0
    ax = plotting.traces(traces)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert len(labels) == 12
    assert "7" in labels


def test_a_constant_or_wholly_missing_trace_can_be_drawn():
    traces = np.zeros((50, 2))
    traces[:, 1] = np.arange(50)
    draw(plotting.traces(traces, roi=[0, 1]))
    draw(plotting.traces(np.zeros((50, 2))))
    mask = np.ones((50, 2), bool)
    mask[:, 0] = False
    draw(plotting.traces(Recording(traces, mask=mask, sampling_rate=1.0)))


def test_probabilities_fill_from_0_to_1(result):
    ax = plotting.state_probabilities(result)
    assert len(ax.collections) == N_STATES
    assert ax.get_ylim() == (0.0, 1.0)
    top = ax.collections[-1].get_paths()[0].get_extents().y1
    assert top == pytest.approx(1.0)


def test_rates_are_sorted_by_preferred_state_and_named(result):
    ax = plotting.rates_by_state(result)
    rates = result["state_rates"]
    shown = np.asarray(ax.images[0].get_array())
    assert (np.diff(shown.argmax(axis=1)) >= 0).all()
    names = [int(label.get_text()) for label in ax.get_yticklabels()]
    np.testing.assert_array_equal(shown, rates[np.array(names) - 100])
    assert ax.images[0].colorbar.ax.get_ylabel() == "Rate (Hz)"
    unsorted = plotting.rates_by_state(rates, sort=False, unit="spikes per frame")
    np.testing.assert_array_equal(np.asarray(unsorted.images[0].get_array()), rates)


def test_models_without_spikes_show_the_means_of_their_traces(result):
    result.parameters["state_means"] = result.parameters.pop("state_rates")._replace(unit="a.u.")
    ax = plotting.rates_by_state(result)
    assert ax.images[0].colorbar.ax.get_ylabel() == "Mean (a.u.)"
    titles = [ax.get_title() for ax in plotting.overview(result).axes]
    assert "Mean of the trace in each state" in titles


def test_names_of_rois_are_left_out_where_they_would_overlap():
    few, many = (plotting.rates_by_state(np.ones((n, 2))) for n in (10, 60))
    assert few.get_ylabel() == "ROI"
    assert many.get_ylabel() == "ROI (60, sorted)"
    assert len(many.get_yticks()) == 0


def test_silent_population_has_a_heat_map_too():
    draw(plotting.rates_by_state(np.zeros((4, 2))))


def test_transition_matrix_prints_percentages():
    ax = plotting.transition_matrix(np.array([[0.97, 0.03], [0.0004, 0.9996]]))
    assert [text.get_text() for text in ax.texts] == ["97.0", "3.0", "<.1", "100.0"]
    assert ax.get_ylabel() == "From state"
    plotting.transition_matrix(np.ones((1, 1)))
    draw(plotting.transition_matrix(np.eye(3)))


def test_likelihood_curve_shows_the_history(result):
    ax = plotting.likelihood_curve(result)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [-50.0, -20.0, -11.0, -10.0])
    assert ax.get_ylabel() == "Log-likelihood (nats)"
    result.model["objective"] = "log posterior density (nats)"
    assert plotting.likelihood_curve(result).get_ylabel() == "Log posterior density (nats)"
    steep = plotting.likelihood_curve(np.concatenate([[-1e9], np.linspace(-10.0, -9.0, 20)]))
    low, high = steep.get_ylim()
    assert low > -100
    assert high > -9.0


def test_model_selection_rings_the_one_standard_error_choice():
    rng = np.random.default_rng(0)
    scores = {"calcium": np.array([[0.0], [1.0], [1.001]]) + 0.1 * rng.normal(size=(3, 5)), "gaussian": np.eye(3)}
    ax = plotting.model_selection([2, 3, 4], scores)
    rings = [line.get_xdata()[0] for line in ax.lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    assert rings == [3, 2]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"calcium", "gaussian", "one-standard-error choice"} == set(labels)


def test_model_selection_subtracts_a_baseline():
    scores = {"calcium": np.array([[1.0, 3.0], [2.0, 4.0]])}
    ax = plotting.model_selection([2, 3], scores, baseline=[1.0, 3.0])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.0, 1.0])
    assert "above baseline" in ax.get_ylabel()


def test_states_around_event_of_arrays_and_results():
    states = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 0]])
    ax = plotting.states_around_event(states, time=[-0.2, -0.1, 0.0, 0.1], event=(0.0, 0.1))
    curves = [line for line in ax.lines if len(line.get_xdata()) == 4]
    np.testing.assert_allclose(curves[1].get_ydata(), [0, 0.25, 0.75, 0.75])
    assert ax.get_xlabel() == "Time from event (s)"
    trials = Segments(np.array([[0, 100], [100, 200], [200, 300]]), np.arange(3))
    ax = plotting.states_around_event(make_result(segments=trials))
    assert len(ax.lines[-1].get_xdata()) == 100


@pytest.mark.parametrize("n_states", [1, 2, 7, 8, 14, 15, 40])
def test_state_colours_are_distinct(n_states):
    colors = plotting.state_colors(n_states)
    assert len(set(colors)) == n_states
    rgb = np.array([to_rgb(color) for color in colors])
    gaps = np.linalg.norm(rgb[:, None] - rgb[None], axis=2) + 10 * np.eye(n_states)
    assert gaps.min() > (0.15 if n_states <= 14 else 0.02)


@pytest.mark.parametrize("with_recording", [True, False])
@pytest.mark.parametrize("rate", [10.0, None])
def test_overview_draws_everything_with_units(tmp_path, with_recording, rate):
    result = make_result(rate=rate)
    figure = plotting.overview(result, make_recording() if with_recording else None)
    assert isinstance(figure, Figure)
    labels = {ax.get_xlabel() for ax in figure.axes} | {ax.get_ylabel() for ax in figure.axes}
    assert ("Time (s)" if rate else "Frame") in labels
    assert {"Probability", "State", "To state", "Iteration", "Rate (Hz)"} <= labels
    assert "3 states, 6 ROIs, 300 frames; converged after 4 iterations" in figure.get_suptitle()
    figure.savefig(tmp_path / "overview.png")
    assert (tmp_path / "overview.png").stat().st_size > 10_000


def test_overview_shows_a_readable_stretch_of_a_long_recording():
    result = make_result(n_frames=5000)
    figure = plotting.overview(result, make_recording(n_frames=5000))
    low, high = figure.axes[0].get_xlim()
    assert high - low == pytest.approx(120.0)
    figure = plotting.overview(result, window=(10.0, 20.0))
    low, high = figure.axes[0].get_xlim()
    assert (low, high) == pytest.approx((9.95, 20.05))


def test_overview_groups_traces_by_the_state_that_drives_them():
    result = make_result()
    ax = plotting.overview(result, make_recording(), n_traces=4).axes[0]
    names = np.array([int(label.get_text()) for label in ax.get_yticklabels()])
    preferred = result["state_rates"].argmax(axis=1)[names - 100]
    assert (np.diff(preferred) >= 0).all()
    squares = [to_hex(line.get_color()).upper() for line in ax.lines if line.get_marker() == "s"]
    assert len(set(preferred)) == len(set(result["state_rates"].argmax(axis=1))), "no state is left out"
    assert squares == [plotting.state_colors(N_STATES)[state].upper() for state in preferred]


def test_overview_of_trials_sets_whole_trials_side_by_side():
    edges = np.arange(0, 5001, 200)
    trials = Segments(np.column_stack([edges[:-1], edges[1:]]), np.arange(25))
    figure = plotting.overview(make_result(n_frames=5000, segments=trials), make_recording(n_frames=5000))
    low, high = figure.axes[0].get_xlim()
    assert (high - low) * 10.0 == pytest.approx(1200)
    assert any("trials side by side" in ax.get_xlabel() for ax in figure.axes)


def test_drawing_leaves_pyplot_and_settings_alone():
    draw(plotting.states([0, 1]))  # saving imports pyplot by itself, once
    before, figures = dict(rcParams), list(Gcf.figs)
    plotting.overview(make_result(), make_recording()).savefig(BytesIO())
    assert dict(rcParams) == before
    assert list(Gcf.figs) == figures


def test_plotting_needs_neither_jax_nor_pynwb():
    code = "import sys, nwb_calcium_lvm.plotting; print({'jax', 'pynwb', 'matplotlib.pyplot'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "set()"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plotting.traces(np.ones(5)), r"expected \(time, roi\)"),
        (lambda: plotting.states(np.ones((5, 2), int)), r"expected \(time,\)"),
        (lambda: plotting.states([0, 1], time=[1.0]), r"time has shape \(1,\)"),
        (lambda: plotting.state_probabilities(np.ones(5)), r"expected \(time, state\)"),
        (lambda: plotting.rates_by_state(np.ones(5)), r"expected \(roi, state\)"),
        (lambda: plotting.transition_matrix(np.ones((2, 3))), r"expected \(state, state\)"),
        (lambda: plotting.likelihood_curve([]), "not empty"),
        (lambda: plotting.model_selection([2, 3], {"calcium": np.ones((3, 2))}), "with 2 models"),
        (lambda: plotting.states_around_event(make_result()), "trials of equal length"),
        (lambda: plotting.states_around_event(np.zeros((2, 3), int), time=[0.0]), "one per frame of a trial"),
        (lambda: plotting.overview(make_result(), window=(900.0, 901.0)), "holds no frame"),
        (lambda: plotting.overview(make_result(), make_recording(n_frames=200)), "that the result was inferred from"),
    ],
)
def test_bad_input_is_answered_with_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_tallest_transient_of_the_top_trace_is_inside_the_picture():
    traces = np.random.default_rng(0).normal(0.0, 0.1, size=(500, 6))
    traces[200:230, :] += 1.0
    traces[300:303, 0] += 2.5
    ax = plotting.traces(traces)
    assert ax.get_ylim()[1] > max(line.get_ydata().max() for line in ax.lines[:6])


# -- Smooth latents ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smooth():
    """A result as CalciumGPFA gives it, and its recording, without a fit."""
    rng = np.random.default_rng(0)
    traces = rng.normal(size=(60, 5))
    recording = Recording(traces, sampling_rate=10.0, segments=Segments(np.array([[0, 25], [25, 60]]), np.arange(2)))
    latents = np.cumsum(rng.normal(size=(60, 3)), axis=0)
    arrays = {
        "latents": NamedArray(latents, ("time", "latent"), "a.u.", "Latents."),
        "latents_std": NamedArray(np.full((60, 3), 0.2), ("time", "latent"), "a.u.", "Sd."),
        "firing_rates": NamedArray(np.exp(0.1 * traces), ("time", "roi"), "Hz", "Rates."),
    }
    parameters = {
        "loadings": NamedArray(rng.normal(size=(5, 3)), ("roi", "latent"), "1", "Loadings."),
        "explained_variance_ratio": NamedArray(np.array([0.6, 0.3, 0.1]), ("latent",), "fraction", "Share."),
    }
    model = {"name": "CalciumGPFA", "n_iter": 3, "objective": "bound (nats)", "objective_history": np.arange(3.0)}
    result = InferenceResult(
        arrays=arrays, parameters=parameters, time=recording.timestamps, time_unit="s", sampling_rate=10.0,
        is_regular=False, roi_ids=recording.roi_ids, segments=recording.segments, model=model, converged=True,
        source=recording.source, metadata={}, roi_metadata={},
    )  # fmt: skip
    return result, recording


def test_latents_break_between_trials_and_have_bands(smooth):
    result, _ = smooth
    ax = plotting.latents(result)
    lines = [line for line in ax.lines if len(line.get_xdata()) > 2]
    assert len(lines) == len(ax.collections) == 3
    assert all(np.isnan(line.get_ydata()).sum() == 1 for line in lines)
    shown = lines[1].get_ydata()
    np.testing.assert_allclose(
        np.diff(shown[~np.isnan(shown)]), np.diff(result["latents"][:, 1]), atol=1e-9
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"latents have shape \(60,\); expected \(time, latent\)"):
        plotting.latents(result["latents"][:, 0])


def test_trajectories_have_a_line_per_trial(smooth):
    result, _ = smooth
    ax = plotting.latent_trajectories(result)
    assert len(ax.lines) == 2
    x, y, z = ax.lines[1].get_data_3d()
    np.testing.assert_allclose(np.column_stack([x, y, z]), result["latents"][25:])
    with pytest.raises(ValueError, match="There are 2 latents; expected at least 3"):
        plotting.latent_trajectories(result["latents"][:, :2])
    assert len(plotting.latent_trajectories(result["latents"]).lines) > 2  # coloured along time


def test_loadings_and_rates_and_overview(smooth):
    result, recording = smooth
    image = plotting.loadings(result, sort=False).images[0]
    np.testing.assert_allclose(np.asarray(image.get_array()), result["loadings"])
    assert image.norm.vmin == -image.norm.vmax
    ax = plotting.rates_against_traces(result, recording, n_rois=2)
    assert len([line for line in ax.lines if len(line.get_xdata()) == 60]) == 4
    for given in (recording, None):
        figure = plotting.latent_overview(result, given)
        assert "3 latents, 5 ROIs, 60 frames; converged after 3 steps" in figure.get_suptitle()
        figure.savefig(BytesIO())
