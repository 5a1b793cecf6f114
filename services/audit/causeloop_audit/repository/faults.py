"""The faults of the database beside a use case's transaction: those that pass, and those that stay."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from causeloop_common.errors import Unavailable


class NotStorable(Exception):
    """The batch cannot be appended, now or later, as it is: for a value in it, or for what its logs are."""


_LASTING = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.DataCorruptedError,
    asyncpg.IndexCorruptedError,
    ValueError,
)
_FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


@contextmanager
def reading_faults() -> Iterator[None]:
    """Raise a fault of the database, while all logs are looked at, as Unavailable."""
    try:
        yield
    except _FAULTS as error:
        raise Unavailable(f"The logs cannot be looked at: {type(error).__name__}.") from error


@contextmanager
def database_faults() -> Iterator[None]:
    """Raise a fault of the database as NotStorable or Unavailable."""
    try:
        yield
    except _LASTING as error:
        raise NotStorable(type(error).__name__) from error
    except _FAULTS as error:
        raise Unavailable(f"The log cannot be written: {type(error).__name__}.") from error
