"""The errors that end a request before any work: one line for the user, exit code 2."""


class BenchError(Exception):
    """A request that cannot be carried out as it stands."""


class RequestError(BenchError):
    """An unknown name or key, or a value out of its range."""


class DataError(BenchError):
    """A dataset that is missing, unreadable or malformed."""


class StoreError(BenchError):
    """A result store that cannot be opened, read or written."""
