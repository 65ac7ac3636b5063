"""Training kept on disk by Orbax, so that a killed process goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.lfads.training import State


class Checkpoints:
    """A folder of checkpoints of one training; see :class:`nwb_calcium_lvm.lfads.training.Keeper`.

    Parameters
    ----------
    folder : path
        Made where it is not there.
    identity : dict
        What the training is: hyper-parameters and a fingerprint of the data, as JSON can hold them. A folder of another
        training is refused.
    every : int
        Epochs from one checkpoint to the next.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any], every: int):
        self.folder, self.identity, self.every = Path(folder).expanduser().absolute(), identity, every

    def resume(self, state: State) -> tuple[State, list[tuple[float, float]]]:
        """Return the newest state and its history; those given where there is none."""
        import orbax.checkpoint as ocp

        with self._manager() as manager:
            newest = manager.latest_step()
            if newest is None:
                return state, []
            try:
                header = manager.restore(newest, args=ocp.args.Composite(header=ocp.args.JsonRestore())).header
            except (KeyError, ValueError, FileNotFoundError, AttributeError) as error:
                raise DataError(
                    f"{self.folder} does not hold checkpoints of a CalciumLFADS ({error}). Pass an empty folder."
                ) from error
            self._check(header.get("identity", {}))
            shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(state))
            found = manager.restore(newest, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes))).state
        leaves, structure = jax.tree.flatten(state)
        kept = [found[str(i)] for i in range(len(leaves))]
        return jax.tree.unflatten(structure, kept), [(float(a), float(b)) for a, b in header["history"]]

    def keep(self, state: State, history: list[tuple[float, float]]) -> None:
        """Keep a state if its epoch is due; a kill in the middle leaves the one before."""
        if len(history) % self.every:
            return
        import orbax.checkpoint as ocp

        header = {"identity": self.identity, "history": [list(h) for h in history]}
        with self._manager() as manager:
            manager.save(
                len(history),
                args=ocp.args.Composite(state=ocp.args.StandardSave(_plain(state)), header=ocp.args.JsonSave(header)),
            )

    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.folder, options=options)

    def _check(self, other: dict[str, Any]) -> None:
        differing = sorted(k for k in self.identity.keys() | other.keys() if self.identity.get(k) != other.get(k))
        if differing:
            pairs = ", ".join(f"{k}: {other.get(k)!r} there, {self.identity.get(k)!r} now" for k in differing[:4])
            raise DataError(
                f"{self.folder} holds checkpoints of another training ({pairs}). Pass another checkpoint_dir, or "
                "remove this one to start anew."
            )


def _plain(state: State) -> dict[str, Any]:
    """Leaves by number: the names of parts of a network are no business of the file's."""
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state))}
