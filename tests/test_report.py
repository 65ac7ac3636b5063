"""The report: what is on the page, what it advises, what it escapes, refuses and leaves alone."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import _report_results as made
import numpy as np
import pytest
from typer.testing import CliRunner

from nwb_calcium_lvm import plotting, read_nwb, simulate, write_nwb
from nwb_calcium_lvm.cli import app
from nwb_calcium_lvm.exceptions import DataError, NameClashError, WriteError
from nwb_calcium_lvm.io.demo_file import write_session_nwb
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.report import write_report
from nwb_calcium_lvm.report._advice import advice_on
from nwb_calcium_lvm.report._events import around_events
from nwb_calcium_lvm.report._quality import joined, quality_of
from nwb_calcium_lvm.report._reading import read_traces
from nwb_calcium_lvm.report._visits import mean_over_time, share_in_first_half, visit_lengths
from nwb_calcium_lvm.result import NamedArray

VOID = ("meta", "link", "br", "hr", "img", "input", "use", "path")


class Page(HTMLParser):
    """Tags that are open, all attributes, and the text between tags."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on"), "no handlers"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(path: Path) -> Page:
    page = Page(path.read_text("utf-8"))
    assert page.open == [], "every tag is closed"
    return page


@pytest.fixture(scope="module")
def truth():
    return simulate.session(
        n_states=3, n_rois=7, duration=60.0, sampling_rate=10.0, indicator="jGCaMP8s", trial_every=10.0, nu=1.0,
        random_state=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def session(truth, tmp_path_factory):
    return write_session_nwb(truth, tmp_path_factory.mktemp("report") / "session.nwb")


@pytest.fixture(scope="module")
def recording(session):
    return read_nwb(session)


@pytest.fixture(scope="module")
def results(truth, recording):
    return {
        "states": made.hmm(recording, truth.states),
        "latents": made.gpfa(recording),
        "dynamics": made.lfads(recording),
        "spikes": made.spikes(recording),
    }


@pytest.fixture(scope="module")
def written(results, session):
    path = session.with_name("results.nwb")
    for name, result in results.items():
        write_nwb(result, path, name=name, overwrite=path.exists())
    return path


@pytest.fixture(scope="module")
def page(written):
    return page_of(write_report(written))


# -- The page ---------------------------------------------------------------------------------------------------------


def test_all_sections_are_there_and_every_picture_is_drawn(page, written):
    assert written.with_name("results_report.html").exists()
    for words in (
        "Recording", "Quality of each ROI", "Result: states", "Result: latents", "Result: dynamics", "Result: spikes",
        "What to try next", "References", "Versions and settings",
    ):  # fmt: skip
        assert words in page.text
    for fact in ("Mus musculus", "jGCaMP8s", "6 with event_time", "Convergence", "Parameters", "Rates and traces"):
        assert fact in page.text
    for picture in (
        "Probability (%) to go from one state", "Length of each visit", "State of each trial around “event time”",
        "Latents around “start time”", "Inferred inputs over time", "The first three latents", "Objective of the fit",
    ):  # fmt: skip
        assert picture in page.text
    assert "Not drawn" not in page.text
    assert "cannot be shown" not in page.text
    assert page.tags.count("svg") > 20


def test_nothing_comes_from_the_network_and_anchors_lead_somewhere(page):
    assert "script" not in page.tags
    assert "link" not in page.tags
    for link in page.links:
        assert link.startswith(("#", "data:image/png")), link
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert set(inside) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_pictures_follow_the_page_into_the_dark(written):
    text = written.with_name("results_report.html").read_text("utf-8")
    assert "prefers-color-scheme: dark" in text
    assert "#222222" not in text.split("</style>", 1)[1], "ink is the page's"
    assert "var(--ink)" in text.split("</style>", 1)[1]
    assert "#1b1b1b" in text, "text over coloured cells keeps its colour"
    assert not re.search(r"font: [\d.]+px '", text), "type is the page's"


def test_references_and_versions(page):
    for words in ("Rabiner", "Ganmor", "Sebastian", "Yu BM", "Keshtkaran", "Minka", "@article{ruebel2022"):
        assert words in page.text
    assert "coordinated_dropout" in page.text
    assert "numpy" in page.text


def test_a_file_without_results_gives_a_page_on_the_recording(session, tmp_path):
    page = page_of(write_report(session, tmp_path / "page.html"))
    assert "no results yet" in page.text
    assert "Quality of each ROI" in page.text
    assert "There is no result to cite for" in page.text


def test_only_named_results(written, tmp_path):
    page = page_of(write_report(written, tmp_path, "spikes"))
    assert (tmp_path / "results_report.html").exists()
    assert "Result: spikes" in page.text
    assert "Result: states" not in page.text
    with pytest.raises(DataError, match="has no result called 'no'"):
        write_report(written, tmp_path / "b.html", ["no"])
    assert not (tmp_path / "b.html").exists()


def test_what_the_file_says_is_escaped(truth, recording, tmp_path):
    evil = '<script>alert(1)</script>$x$ & "quote" \'n'
    from pynwb import NWBHDF5IO

    path = write_session_nwb(truth, tmp_path / "evil.nwb")
    with NWBHDF5IO(path, "a") as io:
        nwbfile = io.read()
        nwbfile.notes = evil
        nwbfile.protocol = evil
        nwbfile.lab = evil
        io.write(nwbfile)
    result = made.hmm(read_nwb(path), truth.states, settings={"note": evil})
    result = replace(result, model={**result.model, "description": evil, "objective": evil})
    out = write_nwb(result, tmp_path / "out.nwb", name="a&b'c")
    text = write_report(out).read_text("utf-8")
    assert "<script" not in text
    page = Page(text)
    assert page.open == []
    assert "alert(1)" in page.text
    assert "Not drawn" not in page.text
    assert page.text.count(evil) >= 3


def test_names_of_rois_that_look_like_formulas(truth, tmp_path):
    names = np.array([f"<b>$\\frac{i}" for i in range(truth.n_rois)])
    recording = Recording(truth.traces, sampling_rate=10.0, roi_ids=names)
    out = write_nwb(made.hmm(recording, truth.states), tmp_path / "arrays.nwb", source=recording)
    text = write_report(out).read_text("utf-8")
    assert "<b>" not in text
    assert "Not drawn" not in text


def test_results_of_trials_and_without_traces(truth, recording, tmp_path):
    trials = recording.align("event_time", (-1.0, 3.0))
    path = np.resize(truth.states, trials.n_frames)
    out = write_nwb(made.hmm(trials, path), tmp_path / "trials.nwb", name="trials")
    page = page_of(write_report(out))
    assert "trials fitted" in page.text
    assert "State of each trial around “event time”" in page.text
    # Of arrays in memory no traces are in the file.
    alone = Recording(truth.traces, sampling_rate=10.0)
    out = write_nwb(made.hmm(alone, truth.states), tmp_path / "alone.nwb")
    page = page_of(write_report(out))
    assert "The traces could not be read" in page.text
    assert "Probability (%) to go from one state" in page.text
    with pytest.raises(DataError):
        write_report(out, tmp_path / "c.html", reading={"series": "no_such"})


def test_an_odd_result_does_not_cost_the_page(recording, truth, tmp_path):
    odd = made.hmm(recording, truth.states)
    odd.arrays["states"] = NamedArray(np.ones((600, 2)), ("time", "x"), "", "")
    odd.parameters["transition_matrix"] = NamedArray(np.ones(3), ("x",), "", "")
    del odd.model["objective_history"]
    out = write_nwb(odd, tmp_path / "odd.nwb", name="odd")
    out = write_nwb(made.spikes(recording), out, name="fine", overwrite=True)
    page = page_of(write_report(out))
    assert "This result cannot be shown" in page.text
    assert "Rates (orange) against traces" in page.text


# -- What is refused --------------------------------------------------------------------------------------------------


def test_an_existing_page_is_not_replaced_unasked(session, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("mine")
    with pytest.raises(NameClashError, match="overwrite=True"):
        write_report(session, out)
    assert out.read_text() == "mine"
    write_report(session, out, overwrite=True)
    assert "<!doctype html>" in out.read_text("utf-8")
    assert list(tmp_path.iterdir()) == [out]


def test_what_cannot_be_written_leaves_nothing(session, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"does not end in \.html"):
        write_report(session, session, overwrite=True)  # the file itself is never taken for a page
    with pytest.raises(WriteError, match="There is no folder"):
        write_report(session, tmp_path / "no" / "page.html")
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    with pytest.raises(WriteError, match="read-only"):
        write_report(session, folder / "page.html")
    folder.chmod(0o755)
    out = tmp_path / "page.html"
    out.write_text("mine")
    from nwb_calcium_lvm.report import _write

    monkeypatch.setattr(_write, "_put", lambda temporary, page: temporary.write_text(page[:500]))
    with pytest.raises(WriteError, match="cut off"):
        write_report(session, out, overwrite=True)
    assert out.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["closed", "page.html"]


def test_what_is_no_nwb_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        write_report(tmp_path / "no.nwb")
    junk = tmp_path / "junk.nwb"
    junk.write_text("junk")
    with pytest.raises(DataError, match="this is not one"):
        write_report(junk)
    assert list(tmp_path.iterdir()) == [junk]


def test_the_command(session, tmp_path):
    file = Path(shutil.copy(session, tmp_path / "session.nwb"))

    def run(*arguments: object, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["report", str(file), *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result.output

    out = tmp_path / "session_report.html"
    assert "Would write" in run("--dry-run")
    assert not out.exists()
    assert f"Wrote {out}" in run()
    assert "Pass --overwrite to replace it" in run(code=1)
    assert "replaces the one there" in run("--overwrite", "--dry-run")
    assert "no result called 'x'" in run("--name", "x", "-o", tmp_path / "x.html", code=1)
    assert "no_such" in run("--series", "no_such", "-o", tmp_path / "x.html", code=1)


# -- Numbers ----------------------------------------------------------------------------------------------------------


def test_visits_end_with_segments():
    path = np.array([0, 0, 1, 1, 1, 1, 0])
    segments = Segments(np.array([[0, 4], [4, 7]]))
    assert [v.tolist() for v in visit_lengths(path, segments, 3)] == [[2, 1], [2, 2], []]
    np.testing.assert_allclose(share_in_first_half(np.array([0, 0, 1, 0]), 3), [2 / 3, 0.0, np.nan])


def test_means_are_of_all_or_of_parts_evenly_spread():
    values = np.arange(60_000, dtype=float)[:, None] * np.ones((1, 100))
    mean, whole = mean_over_time(values)
    assert whole
    np.testing.assert_allclose(mean, 29_999.5)
    mean, whole = mean_over_time(values, most=3 * 2**20)
    assert not whole
    np.testing.assert_allclose(mean, 29_999.5, rtol=0.05)


def test_dead_and_saturated_rois_are_found():
    rng = np.random.default_rng(0)
    calcium = np.convolve(rng.random(1200) < 0.05, 0.9 ** np.arange(60))[:1200]
    traces = np.column_stack([calcium, np.minimum(calcium, 0.8), np.zeros(1200)]) + 0.02 * rng.normal(size=(1200, 3))
    traces[:, 1] = np.minimum(traces[:, 1], 0.8)
    traces[:, 2] = 0.0
    found = quality_of(Recording(traces, sampling_rate=10.0))
    assert found.saturated.tolist() == [False, True, False]
    assert found.dead.tolist() == [False, False, True]
    part = quality_of(Recording(traces[:, [0]], sampling_rate=10.0, roi_ids=["b"]))
    whole = joined([part], np.array(["a", "b"]))
    assert whole.dead.tolist() == [True, False]
    assert whole.noise_level[1] == part.noise_level[0]


def test_frames_around_events_are_those_at_their_times(recording, truth):
    result = made.hmm(recording, truth.states)
    start, event = around_events(result, recording)
    assert (start.name, event.name) == ("start_time", "event_time")
    times = recording.timestamps[event.frames[0]] - recording.trials["event_time"][0]
    np.testing.assert_allclose(times[event.frames[0] >= 0], event.time[event.frames[0] >= 0], atol=0.051)
    untimed = replace(result, time_unit="frames")
    assert around_events(untimed, recording) == []


def test_traces_are_those_of_the_reader_at_the_shown_frames(session, recording, results):
    traces = read_traces(session, {}, {})
    np.testing.assert_allclose(traces.recording.dff, recording.dff, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(traces.quality.noise_level, recording.roi_metadata["noise_level"], rtol=1e-5)
    some = traces.at(recording.timestamps[[5, 3, 100]], recording.roi_ids[[1, 4]])
    assert some is not None
    np.testing.assert_allclose(some.dff, recording.dff[[5, 3, 100]][:, [1, 4]], rtol=1e-5, atol=1e-6)
    assert traces.at(np.array([1e6]), recording.roi_ids) is None


def test_of_a_large_file_a_part_is_read_and_the_page_says_so(session, recording, monkeypatch):
    from nwb_calcium_lvm.report import _reading
    from nwb_calcium_lvm.stream import RecordingStream

    monkeypatch.setattr(RecordingStream, "block_size", 2)
    monkeypatch.setattr(_reading, "_KEPT", 3)
    whole = read_traces(session, {}, {})
    assert whole.recording.n_rois == 3, "only traces that may be drawn are kept"
    np.testing.assert_allclose(whole.quality.noise_level, recording.roi_metadata["noise_level"], rtol=1e-5)
    monkeypatch.setattr(_reading, "_MOST_BYTES", 3 * 4 * recording.n_frames)
    part = read_traces(session, {}, {})
    assert len(part.quality.roi_ids) == 4
    assert part.n_rois == 7
    assert any("quality is that of the first 4 of 7 ROIs" in note for note in part.notes)


# -- Advice -----------------------------------------------------------------------------------------------------------


def advice(recording, traces=None, **results):
    return " ".join(f"{a.level}: {a.finding} {a.remedy}" for a in advice_on(results, traces))


def test_advice_says_what_is_wrong_and_what_to_do(session, recording, truth):
    traces = read_traces(session, {}, {})
    good = made.hmm(recording, truth.states)
    assert advice_on({"good": good}, traces) == []
    fast = made.hmm(recording, truth.states, roi=made.per_roi(recording, decay=0.05, calibrated=False))
    said = advice(recording, traces, fast=fast)
    assert "jGCaMP8s decays in about 0.4 s" in said
    assert "--observation calcium_noisy" in said
    assert "Report influx" in said
    slow = made.hmm(recording, truth.states, roi=made.per_roi(recording, decay=3.0))
    assert "slow drift" in advice(recording, traces, slow=slow)
    flicker = made.hmm(recording, truth.states, stay=0.3, converged=False, settings={"n_init": 1})
    said = advice(recording, traces, flicker=flicker)
    assert "under 2 frames" in said
    assert "stickiness" in said
    assert "--set max_iter=300" in said
    assert "started once" in said
    drift = made.hmm(recording, (np.arange(600) >= 300).astype(int))
    assert "drift, perhaps" in advice(recording, traces, drift=drift)
    rare = np.zeros(600, int)
    rare[7] = 1
    assert "State 1 takes up under 1%" in advice(recording, traces, rare=made.hmm(recording, rare))
    assert "fewer than 20 spikes" in advice(recording, traces, few=made.hmm(recording, truth.states, rate=0.01))


def test_advice_on_other_models(recording, results):
    said = advice(recording, None, **results)
    assert "1 of 3 latents stand for under 2 %" in said
    assert "under two frames" in said
    assert "longer than any trial" in said
    assert "--n-inputs 0" in said
    assert "1 of 7 ROIs are noisier" in said
    assert said.index("problem") < said.index("hint")


def test_advice_on_the_recording(session):
    traces = read_traces(session, {}, {})
    noisy = replace(traces.quality, noise_level=np.full(7, 20.0), dead=np.arange(7) < 2)
    clock = traces.clock
    unknown = Recording(clock.dff, sampling_rate=10.0)
    said = advice(None, replace(traces, quality=noisy, clock=unknown))
    assert "above 8 in 7 of 7 ROIs" in said
    assert "2 ROIs are constant" in said
    assert "--indicator" in said


# -- New pictures -----------------------------------------------------------------------------------------------------


def test_pictures_show_their_numbers():
    ax = plotting.noise_levels([3.0, np.nan, 1.0], flagged=[True, False, False])
    np.testing.assert_array_equal(ax.lines[2].get_ydata(), [1.0, 3.0])
    np.testing.assert_array_equal(ax.lines[3].get_ydata(), [3.0])
    ax = plotting.distribution([1.0, 2.0, 9.0, np.nan], label="x", reference=4.0)
    assert [line.get_xdata()[0] for line in ax.lines] == [2.0, 4.0]
    assert sum(bar.get_height() for bar in ax.patches) == 3
    assert plotting.distribution([0.01, 1.0, 10.0]).get_xscale() == "log"
    plotting.distribution([])
    ax = plotting.dwell_times([[1, 2, 4], []], expected=[3.0, 1.0])
    assert ax.lines[1].get_xdata()[0] == 2
    ax = plotting.states_by_trial(np.array([[0, 1], [-1, 1]]), [0.0, 0.1], n_states=2)
    assert ax.images[0].get_array().mask.tolist() == [[False, False], [True, False]]
    values = np.array([[[1.0], [2.0]], [[3.0], [np.nan]]])
    ax = plotting.mean_around_event(values, [0.0, 1.0])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [2.0, 2.0])
    for wrong in (
        lambda: plotting.noise_levels([[1.0]]),
        lambda: plotting.states_by_trial([0, 1], [0.0], n_states=2),
        lambda: plotting.mean_around_event(values, [0.0]),
    ):
        with pytest.raises(ValueError, match="expected"):
            wrong()
