"""Errors, named for what the caller does next. Nothing above or below invents others for storage faults.

`brokers/errors.py` maps them to Kafka's codes in one place; they are logged once, where they are handled.
"""


class PonorError(Exception):
    """Base of every error that the storage layers raise on purpose."""


class Unavailable(PonorError):
    """Try again later: a store, disk or database did not answer. The outcome may be unknown."""


class Overloaded(Unavailable):
    """Try again later and slower: a bound (memory, WAL size) is reached. Nothing was written."""


class RolledBack(Unavailable):
    """Try again later: the metadata database lacks commits that this broker knows of (CORRECTNESS 8). Nothing was
    written, and nothing will be until it has them again."""


class Fenced(PonorError):
    """Stop: another owner (node epoch, stream epoch) has taken over. Never retried."""


class OutOfRange(PonorError):
    """The offset is below the start or above the end that exists."""


class NotFound(PonorError):
    """The named thing (object key, stream, topic) does not exist."""


class AlreadyExists(PonorError):
    """The key exists. Never a conclusion about who wrote it (CORRECTNESS 5): read it."""


class Corrupt(PonorError):
    """Bytes that fail their checksum or their format. Names the thing and the position; data is not served."""


class Expired(PonorError):
    """An object's preparation ran out before its commit: upload again under a new id (CORRECTNESS 9)."""


class BadSetting(PonorError):
    """A setting is wrong, or what it names cannot be used. The message names the setting and what to do."""
