"""States and latents of one population from two fits put into one order and one space, across sessions.

A fit's states come in any order, and its latents in any axes. Where the same neurons were recorded twice, how a state
or a latent shows in their rates tells which is which.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment

from nwb_calcium_lvm.exceptions import DataError


class StateAlignment(NamedTuple):
    """Which states of one fit are which of another.

    Attributes
    ----------
    match : ndarray of int, shape (state,)
        For each state of the other fit, that of the reference; ``match[states]`` renames a path. States of the other
        fit beyond those of the reference get the numbers that follow.
    similarity : ndarray, shape (state,)
        Correlation over neurons of the two states' log rates, each neuron's mean over states taken off; NaN for states
        without a partner. Near 0: not the same state.
    """

    match: NDArray[np.integer]
    similarity: NDArray[np.floating]


class LatentAlignment(NamedTuple):
    """How latents of one fit go over into those of another.

    Attributes
    ----------
    matrix : ndarray, shape (latent of the other fit, latent of the reference)
        ``latents @ matrix`` lie in the space of the reference.
    explained : float
        Share of the reference loadings' sum of squares that the other fit's loadings explain through the matrix.
    """

    matrix: NDArray[np.floating]
    explained: float


def align_states(reference: Any, other: Any, *, rois: tuple[ArrayLike, ArrayLike] | None = None) -> StateAlignment:
    """Match the states of two fits by the rates that they give to the neurons both have.

    Parameters
    ----------
    reference, other : CalciumHMM or array_like of shape (state, roi)
        Two fits, or expected spikes per frame in each of their states.
    rois : pair of array_like of int, optional
        Columns of the same neurons in one and the other. Default: those whose ``roi_ids_`` agree; of arrays, all.

    Raises
    ------
    DataError
        Where fewer than two neurons are common, or shapes do not fit.

    Examples
    --------
    >>> monday = np.array([[0.1, 0.1, 0.9], [0.8, 0.1, 0.1]])
    >>> tuesday = np.array([[0.9, 0.2, 0.1], [0.1, 0.1, 0.7]])
    >>> align_states(monday, tuesday).match.tolist()
    [1, 0]
    """
    first, second = _common(reference, other, "spikes_per_frame_", rois, axis=1)
    floor = 1e-6  # of rates estimated as 0
    first, second = (np.log(np.maximum(x, floor)) for x in (first, second))
    both = [_unit(x - x.mean(axis=0)) for x in (first, second)]
    similarity = both[1] @ both[0].T
    rows, columns = linear_sum_assignment(-similarity)
    match, found = np.full(len(second), -1), np.full(len(second), np.nan)
    match[rows], found[rows] = columns, similarity[rows, columns]
    left_over = match < 0
    match[left_over] = len(first) + np.arange(left_over.sum())
    return StateAlignment(match, found)


def align_latents(
    reference: Any,
    other: Any,
    *,
    rois: tuple[ArrayLike, ArrayLike] | None = None,
    method: Literal["orthogonal", "linear"] = "orthogonal",
) -> LatentAlignment:
    """Find the map from the latents of one fit to those of another by how both load on the neurons both have.

    Parameters
    ----------
    reference, other : CalciumGPFA, CalciumLFADS or array_like of shape (roi, latent)
        Two fits, or their loadings.
    rois : pair of array_like of int, optional
        Rows of the same neurons in one and the other. Default: those whose ``roi_ids_`` agree; of arrays, all.
    method : {"orthogonal", "linear"}, default "orthogonal"
        A rotation, which keeps distances, for latents of one scale (CalciumGPFA's loadings are orthonormal); or any
        linear map, for those of LFADS. Fits of different numbers of latents need "linear".

    Raises
    ------
    DataError
        Where fewer neurons are common than there are latents, or shapes do not fit.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> loadings = np.linalg.qr(rng.normal(size=(20, 2)))[0]
    >>> swapped = align_latents(loadings, loadings[:, ::-1])
    >>> swapped.matrix.round(6)
    array([[0., 1.],
           [1., 0.]])
    """
    first, second = _common(reference, other, "loadings_", rois, axis=0)
    if len(first) < max(first.shape[1], second.shape[1]):
        raise DataError(
            f"{len(first)} neurons are common to fits of {first.shape[1]} and {second.shape[1]} latents. At least as "
            "many neurons as latents are needed."
        )
    if method == "linear":
        # A log rate is C z in either space: z of the reference is what explains C_other z_other best.
        matrix = np.linalg.lstsq(first, second, rcond=None)[0].T
        back = np.linalg.lstsq(second, first, rcond=None)[0]
    elif method == "orthogonal":
        if first.shape[1] != second.shape[1]:
            raise DataError(
                f"The fits have {first.shape[1]} and {second.shape[1]} latents, and a rotation needs as many in both. "
                'Pass method="linear".'
            )
        matrix, _ = orthogonal_procrustes(second, first)
        back = matrix
    else:
        raise DataError(f'method={method!r} is not known. Expected "orthogonal" or "linear".')
    left = ((first - second @ back) ** 2).sum() / (first**2).sum()
    return LatentAlignment(matrix, float(1.0 - left))


def _common(
    reference: Any, other: Any, attribute: str, rois: tuple[ArrayLike, ArrayLike] | None, axis: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Values of the neurons that both have, in one order."""
    models = (reference, other)
    values = [np.asarray(getattr(x, attribute, x), float) for x in models]
    for x in values:
        if x.ndim != 2:
            raise DataError(
                f"Received an array of shape {x.shape}. Expected a fitted model of one session, or an array of two "
                "axes."
            )
    if rois is None:
        sizes = [x.shape[axis] for x in values]
        if sizes[0] != sizes[1] and not any(hasattr(x, "roi_ids_") for x in models):
            raise DataError(
                f"The arrays have {sizes[0]} and {sizes[1]} neurons. Say with rois=(first, second) which are the same."
            )
        names = [getattr(x, "roi_ids_", np.arange(n)) for x, n in zip(models, sizes, strict=True)]
        _, first, second = np.intersect1d(*names, return_indices=True)
        rois = (first, second)
    chosen = [np.asarray(r) for r in rois]
    if len(chosen[0]) != len(chosen[1]) or len(chosen[0]) < 2:
        raise DataError(
            f"{len(chosen[0])} and {len(chosen[1])} neurons are said to be the same. Expected two lists of one length, "
            "of two or more; if IDs differ from session to session, pass rois=(columns, columns)."
        )
    return tuple(np.take(v, c, axis=axis) for v, c in zip(values, chosen, strict=True))  # pyright: ignore


def _unit(x: NDArray[np.floating]) -> NDArray[np.floating]:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
