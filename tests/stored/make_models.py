"""Write the saved models of this version, which later versions must load: ``python make_models.py``; then commit them.

Files of a version that was released are never written again. The models are small and hardly fitted; what counts is
that they predict later what they predict now.
"""

import json
from pathlib import Path

import numpy as np

from nwb_calcium_lvm import (
    CalciumGPFA,
    CalciumHMM,
    CalciumLFADS,
    FilterSpikeEstimator,
    OASISSpikeEstimator,
    S2SSpikeEstimator,
    VAESpikeEstimator,
    __version__,
)
from nwb_calcium_lvm.spikes import DEFAULT
from nwb_calcium_lvm.spikes.vae import RecognitionConfig, World

FOLDER = Path(__file__).parent / f"models_{__version__}"
RATE = 20.0


def traces():
    """Three cells for ten seconds: the same at any time, on any machine."""
    t = np.arange(200)
    spikes = np.stack([(t * k) % 23 == 0 for k in (1, 3, 7)], axis=1).astype(float)
    kernel = np.exp(-np.arange(40) / 8.0)
    clean = np.stack([np.convolve(s, kernel)[:200] for s in spikes.T], axis=1)
    return 0.3 * clean + 0.05 * np.sin(12.9898 * (t[:, None] + 200 * np.arange(3))), spikes.astype(int)


def models():
    """Each class once, fitted in a moment."""
    x, spikes = traces()
    short = DEFAULT.changed(channels=4, dilations=(1,), steps=2, check_every=2, n_members=1, batch_size=2)
    tiny = RecognitionConfig(max_count=2, channels=4, analysis_width=8, synthesis_width=4, dilations=(1,), units=3)
    world = World(n_units=4, n_frames=64, silence=8, substeps=1)
    common = {"sampling_rate": RATE, "random_state": 0}
    lfads = {"n_factors": 2, "n_generator": 4, "n_encoder": 3, "n_controller": 3, "n_initial": 2, "max_epochs": 1}
    return {
        "CalciumHMM": CalciumHMM(2, n_init=1, max_iter=3, **common).fit(x),
        "CalciumGPFA": CalciumGPFA(1, max_iter=2, **common).fit(x),
        "CalciumLFADS": CalciumLFADS(n_draws=2, window=2.0, **lfads, **common).fit(x),
        "FilterSpikeEstimator": FilterSpikeEstimator(ar_order=1, sampling_rate=RATE).fit(x),
        "OASISSpikeEstimator": OASISSpikeEstimator(sampling_rate=RATE).fit(x, spikes),
        "S2SSpikeEstimator": S2SSpikeEstimator(config=short, **common).fit(x, spikes),
        "VAESpikeEstimator": VAESpikeEstimator(config=tiny, world=world, n_updates=2, **common).fit(x),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    expected = {}
    for name, model in models().items():
        model.save(FOLDER / f"{name}.npz")
        expected[name] = np.asarray(model.transform(traces()[0]), float).round(6).tolist()
    (FOLDER / "expected.json").write_text(json.dumps(expected))
