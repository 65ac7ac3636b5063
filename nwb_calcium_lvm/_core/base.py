"""What every estimator of the package is: a scikit-learn estimator of calcium recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm._core.coerce import ACCEPTED, Trials, coerce
from nwb_calcium_lvm.exceptions import DataError


def is_fitted(estimator: Any) -> bool:
    """Whether an estimator was fitted, or came with what a fit would find."""
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


class CalciumEstimator(BaseEstimator):
    """Base class: takes whatever :mod:`nwb_calcium_lvm._core.coerce` accepts, is saved without pickle."""

    # With scikit-learn's metadata routing on, groups reach every step; it reads these class attributes.
    __metadata_request__fit = {"groups": True}  # noqa: RUF012
    __metadata_request__score = {"groups": True}  # noqa: RUF012
    __metadata_request__transform = {"groups": True}  # noqa: RUF012
    __metadata_request__predict = {"groups": True}  # noqa: RUF012
    __metadata_request__predict_proba = {"groups": True}  # noqa: RUF012

    sampling_rate: float | None
    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _coerce(self, X: Any, *, groups: Any = None, reset: bool = False) -> Trials:
        return coerce(self, X, groups=groups, reset=reset)

    def _rate(self, quantity: str) -> float:
        """Return the sampling rate the model was fitted at, or explain why ``quantity`` cannot be had."""
        rate = getattr(self, "sampling_rate_", None)
        if rate is None:
            raise DataError(
                f"{quantity} needs a sampling rate, and this model was fitted on frames without one. Pass "
                f"sampling_rate (Hz) to {type(self).__name__}, or fit a Recording, an NWB file or a Suite2p folder."
            )
        return rate

    def save(self, path: str | Path) -> Path:
        """Save the fitted model to one file of arrays and JSON; load it with :func:`nwb_calcium_lvm.load_model`."""
        from nwb_calcium_lvm._core.persistence import save_model

        return save_model(self, path)

    def _to_save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the constructor's arguments and the fitted attributes, as arrays and what JSON can hold."""
        fitted = {k: v for k, v in vars(self).items() if k.endswith("_") and not k.startswith("_")}
        return self.get_params(deep=False), fitted

    @classmethod
    def from_nwb(cls, path: str | Path, name: str | None = None) -> Self:
        """Return the fitted model of a result that :func:`nwb_calcium_lvm.write_nwb` wrote; nothing is refitted.

        Parameters
        ----------
        path : path
            NWB file, HDF5 or Zarr.
        name : str, optional
            Of the result; needed where the file has several of this class.

        Raises
        ------
        AmbiguousDataError
            If several results could be meant; the message lists them.
        DataError
            If the file has no result of this class that can be restored.
        """
        from nwb_calcium_lvm._core.persistence import load_from_nwb

        return load_from_nwb(path, name, cls)

    @classmethod
    def _restore(cls, parameters: dict[str, Any], fitted: dict[str, Any]) -> Self:
        """Rebuild a fitted estimator from its constructor arguments and fitted attributes; TypeError if not its own."""
        wrong = [k for k in fitted if not k.endswith("_") or k.startswith("_") or hasattr(cls, k)]
        if wrong:
            raise TypeError(f"{wrong} are not what a {cls.__name__} learns")
        estimator = cls(**parameters)
        for name, value in fitted.items():
            setattr(estimator, name, value)
        return estimator


__all__ = ["ACCEPTED", "CalciumEstimator", "is_fitted"]
