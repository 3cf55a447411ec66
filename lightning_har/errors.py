"""What goes wrong, by name. Each message says what, where and what to do next.

The command line prints these without a traceback; any other exception is a bug of ours.
"""


class HarError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(HarError, ValueError):
    """An argument is wrong: unknown name, impossible combination, wrong shape."""


class DataError(HarError, ValueError):
    """A data set is wrong: missing folder, missing column, unknown label, duplicate path."""


class DecodeError(HarError, RuntimeError):
    """A video cannot be read. The message begins with its path."""


class WeightsError(HarError, RuntimeError):
    """Weights cannot be fetched, are not what was expected, or do not fit the network."""
