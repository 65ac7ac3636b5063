"""How large the mocks are, so that they fit together."""

N_FRAMES = 40
N_ROIS = 4
N_STATES = 3
N_LATENTS = 2
RATE = 30.0
