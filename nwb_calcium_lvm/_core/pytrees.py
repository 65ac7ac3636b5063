"""Pytrees of arrays as flat dicts, for files."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray


def flatten(tree: Any, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Return the leaves of a pytree by their path, as arrays."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {prefix + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def unflatten(like: Any, arrays: dict[str, NDArray[Any]], prefix: str = "") -> Any:
    """Put arrays back into the shape of a pytree; KeyError or ValueError where they do not fit it."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    found = []
    for path, leaf in leaves:
        array = arrays[prefix + jax.tree_util.keystr(path)]
        if array.shape != np.shape(leaf):
            raise ValueError(f"{jax.tree_util.keystr(path)} has shape {array.shape}; expected {np.shape(leaf)}")
        found.append(jnp.asarray(array, leaf.dtype))
    return jax.tree_util.tree_unflatten(structure, found)
