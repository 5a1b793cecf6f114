"""When logs that lost their end show that an older copy of the whole database is here, not a fault of single logs."""

_FEW = 3
_PART = 0.1


def is_older_copy(short: int, logs: int) -> bool:
    """Whether so many of all logs have fewer entries than were signed that it is a fault of the installation."""
    return short >= _FEW and short >= _PART * logs
