"""Nonlinear dynamics from fluorescence: neurons that follow the Lorenz system, seen through calcium and noise.

python examples/lorenz_dynamics.py
"""

import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LinearRegression

from nwb_calcium_lvm import CalciumLFADS
from nwb_calcium_lvm.simulate import lorenz_experiment

truth = lorenz_experiment(n_trials=120, n_frames=60, random_state=0)
train, test = truth.traces[:100], truth.traces[100:]
lfads = CalciumLFADS(n_factors=4, n_generator=48, max_epochs=80, sampling_rate=30.0, random_state=0).fit(train)

# Factors are known up to an affine map: the best one on the training trials is judged on the others.
flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
read = LinearRegression().fit(flat(lfads.transform(train)), flat(truth.latents[:100]))
factors, states = flat(lfads.transform(test)), flat(truth.latents[100:])
found = read.predict(factors)
print(f"R2 of the true states on trials never seen: {read.score(factors, states):.3f}")
print("Decays per frame, true and found:", np.corrcoef(truth.ar_coefs[:, 0], lfads.ar_coefs_[:, 0])[0, 1].round(3))

figure = Figure(figsize=(9, 5), layout="constrained")
for i, ax in enumerate(figure.subplots(3, 1, sharex=True)):
    ax.plot(states[:240, i], color="black", lw=1.5, label="true")
    ax.plot(found[:240, i], color="tab:blue", lw=1.0, label="from fluorescence")
    ax.set_ylabel("xyz"[i])
ax.set_xlabel("frame, four trials end to end")
ax.legend(loc="upper right", fontsize="small")
figure.savefig("lorenz_dynamics.png", dpi=120)
