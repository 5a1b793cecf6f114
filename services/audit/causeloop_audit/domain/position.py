"""How far the stream is entered, and where the intake goes on after the database was restored.

The stream's consumer counts by itself what was acknowledged. A batch is committed before it is acknowledged, so the
database is ahead of that count. If it is behind, it was restored from an older copy, or a standby took over that lacked
the last commits: what it lacks is entered again, in the stream's order.
"""

from typing import NamedTuple


class Position(NamedTuple):
    """Everything up to this number is entered, or held, of the stream that was created at this time.

    An audit service that kept no time left an empty text: its number may be too low.
    """

    stream: str
    number: int
    again_to: int = 0
    """After a restore, the number up to which the stream is entered again: until it is reached logs are shorter than
    they were.
    """


def again_from(position: Position, *, stream: str, first: int, last: int, floor: int) -> int | None:
    """The number from which the stream is to be entered again; None to go on after `floor`, which is acknowledged.

    `stream` is the time at which it was created, `first` and `last` are its ends. Of a stream that was made anew since
    then, nothing is known to be entered. Beyond the end of the stream nothing was entered: it lost its tail, and gives
    the numbers anew.
    """
    if not position.stream:
        return None
    entered = position.number if position.stream == stream else 0
    begin = max(entered + 1, first)
    return begin if begin <= floor and entered <= last else None
