"""Errors and warnings of the package: each says what was received, what was expected, and what to do."""


class DataError(ValueError):
    """The data cannot be used as they are (shape, missing values, clock, ambiguous or absent traces)."""


class AmbiguousDataError(DataError):
    """Several readings of the data are possible; the message lists them and says how to choose one."""


class UnsafeFileError(DataError):
    """A file asks for more than data, such as a pickle that names a callable outside the allowed list."""


class WriteError(OSError):
    """Results could not be written; the target is as it was."""


class NameClashError(WriteError):
    """A result of this name is in the file already, and replacing it was not asked for."""


class DataWarning(UserWarning):
    """Something about the data was repaired, left out or looks wrong; the message says what."""
