"""Two days, other neurons, one space: a decoder learned on Monday reads Tuesday.

python examples/one_space_for_two_days.py
"""

import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LinearRegression

from nwb_calcium_lvm import CalciumLFADS, Recording
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.simulate import lorenz_experiment

N_TRIALS, N_FRAMES, N_STIMULI = 60, 40, 10
stimulus = np.arange(N_TRIALS) % N_STIMULI  # each sets the population off from a state of its own
truth = lorenz_experiment(2 * N_TRIALS, N_FRAMES, 40, conditions=np.tile(stimulus, 2), random_state=0)


def day(trials, neurons):
    edges = np.arange(N_TRIALS + 1) * N_FRAMES
    segments = Segments(np.column_stack([edges[:-1], edges[1:]]), np.arange(N_TRIALS))
    traces = truth.traces[trials][:, :, neurons].reshape(N_TRIALS * N_FRAMES, -1)
    return Recording(traces, sampling_rate=30.0, segments=segments)


monday, tuesday = day(slice(None, N_TRIALS), slice(None, 20)), day(slice(N_TRIALS, None), slice(20, None))
states = truth.latents.reshape(2, -1, 3)
lfads = CalciumLFADS(n_factors=4, n_generator=48, max_epochs=40, random_state=0)
free = lfads.fit([monday, tuesday]).transform([monday, tuesday])
tied = lfads.fit([monday, tuesday], conditions=[stimulus, stimulus]).transform([monday, tuesday])

for name, (first, second) in (("not told of stimuli", free), ("told", tied)):
    decoder = LinearRegression().fit(first, states[0])
    print(
        f"{name:20s} R2 on Monday {decoder.score(first, states[0]):.2f}, Tuesday {decoder.score(second, states[1]):.2f}"
    )

figure = Figure(figsize=(9, 4.5), layout="constrained")
for axes, name, factors in zip(figure.subplots(1, 2), ("not told of stimuli", "told"), (free, tied), strict=True):
    for day_name, factors_of_day, color in zip(("Monday", "Tuesday"), factors, ("C0", "C1"), strict=True):
        trials = factors_of_day.reshape(N_TRIALS, N_FRAMES, -1)
        for k in range(4):
            mean = trials[stimulus == k].mean(axis=0)
            axes.plot(
                *mean[:, :2].T, color=color, lw=1.2, marker="o", markevery=[0], label=day_name if k == 0 else None
            )
    axes.set(title=name, xlabel="factor 1", ylabel="factor 2")
axes.legend()
figure.savefig("one_space_for_two_days.png", dpi=120)
