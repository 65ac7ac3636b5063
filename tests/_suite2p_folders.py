"""Small Suite2p folders in the layouts of 0.14 and 1.1, written as Suite2p writes them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LAYOUTS = ("0.14", "1.1", "1.1 with ops.npy")


@dataclass
class FakePlane:
    """One plane; change its arrays before writing to make a special case."""

    n_rois: int = 5
    n_frames: int = 400
    fs: float | None = 15.0
    seed: int = 0
    bad_frames: Sequence[int] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    red: bool = False
    F: np.ndarray = field(init=False)
    Fneu: np.ndarray = field(init=False)
    iscell: np.ndarray = field(init=False)
    stat: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        shape = (self.n_rois, self.n_frames)
        decay = np.exp(-np.arange(60) / 12)
        spikes = rng.poisson(0.03, shape)
        calcium = np.array([np.convolve(s, decay)[: self.n_frames] for s in spikes]).reshape(shape)
        self.Fneu = (200 + 20 * np.sin(np.arange(self.n_frames) / 20) + rng.normal(0, 5, shape)).astype(np.float32)
        self.F = (400 * (1 + 0.3 * calcium) + 0.7 * self.Fneu + rng.normal(0, 8, shape)).astype(np.float32)
        probability = np.linspace(0.9, 0.1, self.n_rois)
        self.iscell = np.column_stack([probability > 0.3, probability]).astype(float)
        self.stat = [
            {
                "med": [10 + i, np.int64(20 + i)],
                "npix": np.int64(100 + i),
                "ypix": np.arange(3) + i,
                "xpix": np.arange(3),
                "lam": np.ones(3, np.float32),
                "compact": np.float32(1.1),
            }
            for i in range(self.n_rois)
        ]

    @property
    def badframes(self) -> np.ndarray:
        bad = np.zeros(self.n_frames, bool)
        bad[list(self.bad_frames)] = True
        return bad


def write_suite2p_folder(
    parent: Path, planes: Sequence[FakePlane], layout: str = "1.1", combined: bool = False
) -> Path:
    """Write ``suite2p/`` into ``parent`` and return it."""
    root = parent / "suite2p"
    for number, plane in enumerate(planes):
        folder = root / f"plane{number}"
        folder.mkdir(parents=True)
        _write_settings(folder, plane, number, len(planes), layout)
        if plane.n_rois:
            _write_rois(folder, plane.F, plane.Fneu, plane.iscell, plane.stat)
            if plane.red:
                np.save(folder / "redcell.npy", plane.iscell[::-1].astype(np.float32))
    if layout != "0.14":
        _save(root / "settings.npy", _nested(planes[0]))
        _save(root / "db.npy", {"nplanes": len(planes), "ignore_flyback": None})
    if combined:
        _write_combined(root / "combined", planes, layout)
    return root


def _write_settings(folder: Path, plane: FakePlane, number: int, n_planes: int, layout: str) -> None:
    db = {
        "nplanes": n_planes,
        "nframes": plane.n_frames,
        "iplane": np.int64(number),
        "Ly": 64,
        "Lx": 64,
        "nchannels": 1,
        "data_path": ["/data/movies"],
        "save_path": folder,  # a concrete path, as some versions pickle it
        "ignore_flyback": None,
    }
    registration = {"badframes": plane.badframes, "yoff": np.zeros(plane.n_frames, np.int64)}
    when = {"date_proc": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)}
    if layout == "0.14":
        flat = {
            "suite2p_version": "0.14.4",
            "tau": 1.0,
            "neucoeff": 0.7,
            "baseline": "maximin",
            "win_baseline": 60.0,
            "sig_baseline": 10.0,
            "prctile_baseline": 8.0,
            "ignore_flyback": [],
        }
        fs = {} if plane.fs is None else {"fs": plane.fs}
        _save(folder / "ops.npy", db | flat | fs | registration | when | {"ignore_flyback": []} | plane.settings)
        return
    settings = _nested(plane)
    _save(folder / "settings.npy", settings)
    _save(folder / "db.npy", db)
    _save(folder / "reg_outputs.npy", registration)
    if layout == "1.1 with ops.npy":
        _save(folder / "ops.npy", db | settings | registration | when)


def _nested(plane: FakePlane) -> dict[str, Any]:
    flat = plane.settings
    return {
        "version": "1.1.0",
        "tau": 1.0,
        **({} if plane.fs is None else {"fs": plane.fs}),
        "extraction": {"neuropil_coefficient": flat.get("neucoeff", 0.7)},
        "dcnv_preprocess": {
            "baseline": flat.get("baseline", "maximin"),
            "win_baseline": flat.get("win_baseline", 60.0),
            "sig_baseline": flat.get("sig_baseline", 10.0),
            "prctile_baseline": flat.get("prctile_baseline", 8.0),
        },
    }


def _write_combined(folder: Path, planes: Sequence[FakePlane], layout: str) -> None:
    """Concatenate the planes, the shorter ones padded with zeros as Suite2p does."""
    folder.mkdir()
    found = [(i, p) for i, p in enumerate(planes) if p.n_rois]
    longest = max(p.n_frames for p in planes)
    pad = [((0, 0), (0, longest - p.n_frames)) for _, p in found]
    stat = [roi | {"iplane": i} for i, p in found for roi in p.stat]
    _write_rois(
        folder,
        np.concatenate([np.pad(p.F, w) for (_, p), w in zip(found, pad, strict=True)]),
        np.concatenate([np.pad(p.Fneu, w) for (_, p), w in zip(found, pad, strict=True)]),
        np.concatenate([p.iscell for _, p in found]),
        stat,
    )
    if layout == "0.14":
        _write_settings(folder, planes[-1], len(planes) - 1, len(planes), layout)
    else:
        _save(folder / "settings.npy", _nested(planes[0]))
        _save(folder / "db.npy", {"nplanes": len(planes), "badframes": planes[-1].badframes, "ignore_flyback": None})


def _write_rois(folder: Path, F: np.ndarray, Fneu: np.ndarray, iscell: np.ndarray, stat: list[dict[str, Any]]) -> None:
    np.save(folder / "F.npy", F)
    np.save(folder / "Fneu.npy", Fneu)
    np.save(folder / "spks.npy", np.zeros_like(F))
    np.save(folder / "iscell.npy", iscell)
    np.save(folder / "stat.npy", np.array(stat, dtype=object), allow_pickle=True)


def _save(path: Path, content: Any) -> None:
    np.save(path, content, allow_pickle=True)
