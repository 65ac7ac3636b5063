"""Behaviour decoded from latents in a scikit-learn pipeline, on blocks of time left out, beside other ways.

CEBRA takes part where it is installed (pip install cebra).
"""

import argparse
import importlib.util

import matplotlib.pyplot as plt
import numpy as np
import sklearn
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline

from nwb_calcium_lvm import CalciumGPFA
from nwb_calcium_lvm.simulate import gpfa_experiment
from nwb_calcium_lvm.splitters import BlockedTimeSplit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", default="decoding_from_latents.png", help="where the picture goes")
options = parser.parse_args()
sklearn.set_config(enable_metadata_routing=True)  # so that groups reach the model: it does not run across cuts

# Twenty cells follow three latents; a running wheel follows two of them.
made = gpfa_experiment(20, 2400, timescales=(60, 90, 120), mean_rate=0.1, measurement_sd=0.3, random_state=0)
speed = made.latents[:, 0] - 0.5 * made.latents[:, 1] + 0.3 * np.random.default_rng(0).standard_normal(2400)

ridge = RidgeCV(np.logspace(-1, 5, 13), cv=5)
ways = {
    "traces (Gaussian GLM)": ridge,
    "PCA of traces": make_pipeline(PCA(3), ridge),
    "factor analysis of traces": make_pipeline(FactorAnalysis(3), ridge),
    "CalciumGPFA": make_pipeline(CalciumGPFA(3, kernel="matern52", ar_order=2, tol=1e-4, max_iter=60), ridge),
}
if importlib.util.find_spec("cebra"):
    import cebra

    embedding = cebra.CEBRA(output_dimension=3, max_iterations=500, batch_size=256, time_offsets=10, verbose=False)
    ways["CEBRA, by time"] = make_pipeline(embedding, KNeighborsRegressor(25))

blocks = BlockedTimeSplit(4, gap=60)
scores = {}
for name, way in ways.items():
    told = {"params": {"groups": blocks.block_of(made.traces)}} if "GPFA" in name else {}
    scores[name] = cross_val_score(way, made.traces, speed, cv=blocks, scoring="r2", **told)
    print(f"{name:26s} R2 on blocks left out: {scores[name].mean():.2f} ± {scores[name].std():.2f}")

figure, ax = plt.subplots(figsize=(6, 2.5), layout="constrained")
ax.barh(list(scores), [s.mean() for s in scores.values()], xerr=[s.std() for s in scores.values()], color="0.6")
ax.invert_yaxis()
ax.set_xlabel("R² of the wheel's speed, blocks of time left out")
figure.savefig(options.out, dpi=150)
