"""NWB types for the results of latent-variable models of calcium imaging.

The types themselves are still being designed; this version reserves the name and ships with ``nwb_calcium_lvm``,
which writes core NWB types until they are ready.
"""

__version__ = "0.0.1"
