"""The requests of clients and their answers, from which `judge.py` knows what has to be true in the end."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Fate = Literal["done", "refused", "unknown"]

FAULTS = (0, 503, 504)
"""Answers after which a client tries again; 0 is a connection that broke."""


def fate(answers: list[int]) -> Fate:
    """What became of something that was asked once or, under one key, several times."""
    if any(200 <= answer < 300 for answer in answers):
        return "done"
    return "refused" if set(answers) <= {503} else "unknown"


@dataclass
class Secret:
    """A put of a path of its own; its value is its path. `reveals` are the answers to reveals of it."""

    workspace: str
    path: str
    keyed: bool
    answers: list[int] = field(default_factory=list)
    reveals: list[int] = field(default_factory=list)


@dataclass
class Token:
    """A personal access token with a name of its own; `secret` is unknown where its answer was lost."""

    workspace: str
    name: str
    keyed: bool
    answers: list[int] = field(default_factory=list)
    id: str = ""
    secret: str = ""
    revocations: list[int] = field(default_factory=list)
    revoked_at: float = 0.0
    """When the revocation was answered."""
    refused: bool = False
    """Whether it was refused since then: it must never be accepted again."""

    @property
    def is_live(self) -> bool:
        return bool(self.secret) and not self.revocations


@dataclass
class Workspace:
    """A workspace with a slug of its own."""

    slug: str
    keyed: bool
    answers: list[int] = field(default_factory=list)
    id: str = ""


@dataclass
class Session:
    """What was asked of one person's sessions, in the log of the person's realm."""

    realm: str
    starts: list[int] = field(default_factory=list)
    refreshes: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    token: str = ""
    """An access token of the session, once it is to have ended."""


@dataclass
class Model:
    """Everything that all workers asked."""

    secrets: list[Secret] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    workspaces: list[Workspace] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    checkpoints: list[tuple[str, str]] = field(default_factory=list)
    """Signed heads of workspaces' logs that clients were given: nothing of them may ever change."""
    proven: int = 0
    """Entries whose proof was verified in the end."""
    answers: Counter[int] = field(default_factory=Counter)
    words: list[float] = field(default_factory=list)
    """Seconds from the answer to a revocation until the last success."""
    broken: list[str] = field(default_factory=list)
    """What must not be, as sentences."""

    def breaks(self, what: str) -> None:
        self.broken.append(what)

    @property
    def acts(self) -> int:
        """How many changes were acknowledged."""
        every = (
            *(secret.answers for secret in self.secrets),
            *(secret.reveals for secret in self.secrets),
            *(token.answers for token in self.tokens),
            *(token.revocations for token in self.tokens),
            *(workspace.answers for workspace in self.workspaces),
            *(answers for session in self.sessions for answers in (session.starts, session.refreshes, session.ends)),
        )
        return sum(fate(answers) == "done" for answers in every if answers)
