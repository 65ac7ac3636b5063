"""Hidden Markov models of calcium imaging.

:class:`CalciumHMM` is the estimator; :func:`select_n_states` compares numbers of states by held-out likelihood. The
mathematics lies in :mod:`.inference` (any chain), :mod:`.emissions` (what a state does to the traces) and :mod:`.em`.
"""

from nwb_calcium_lvm.hmm.estimator import CalciumHMM
from nwb_calcium_lvm.hmm.selection import Selection, select_n_states

__all__ = ["CalciumHMM", "Selection", "select_n_states"]
