"""How a request to the outside fails, by how far it got. Each error is a full sentence: the cause, and what to do."""

from causeloop_common.errors import InvalidInput, Timeout, Unavailable


class Refused(InvalidInput):
    """The destination is not allowed. Nothing was sent."""

    outcome = "refused"


class Unreachable(Unavailable):
    """No connection came about. Nothing was sent."""

    def __init__(self, detail: str, outcome: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        """Why, as a metric's label."""


class Unanswered(Timeout):
    """Something was sent and no usable answer came: what it did at the other side is unknown."""

    def __init__(self, detail: str, outcome: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        """Why, as a metric's label."""
