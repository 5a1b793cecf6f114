"""An entry as a value, whatever the version it is written in."""

from typing import Any, Literal, NamedTuple

MALFORMED = "audit.malformed"
"""The action of an entry that stands for an event which cannot be entered as it is; its data is `digest_of` it."""

ActorKind = Literal["person", "service_account", "service"]
Outcome = Literal["success", "denied", "failure"]


class Sealed(NamedTuple):
    """A text under a key that can be destroyed. The log carries it and never opens it.

    `key` names the key, `text` is the ciphertext. Once the key is destroyed nobody can read the text, and the entry's
    bytes, hash and proofs are what they were.
    """

    key: str
    text: str


class Entry(NamedTuple):
    """One entry of a log. A field that version 1 does not have is None there."""

    version: int
    id: str
    """The event's id; unique in the log together with the service that announced it."""
    source: str | None
    """The service that announced the event."""
    tenant: str
    """The log's owner: a workspace or a person's realm."""
    time: str
    """When it happened, as it is written: version 2 always `2026-01-02T03:04:05.678901Z`."""
    action: str
    outcome: Outcome | None
    """`success`: done. `denied`: refused by a rule, nothing changed. `failure`: allowed, tried and not done."""
    actor: str
    """The principal that acted."""
    actor_kind: ActorKind | None
    on_behalf_of: str | None
    """The principal for whom the actor acted; None when it acted for itself."""
    credential: str | None
    """The session or token that was used."""
    target: str
    """The id of the thing acted on."""
    target_kind: str | None
    request: str | None
    """The id of the request that caused it."""
    address: Sealed | None
    """The address that the request came from."""
    user_agent: Sealed | None
    """The program that sent the request, by its User-Agent header."""
    data: dict[str, Any]
    """Further facts that the action records."""
    salt: str
    """32 hexadecimal digits, random: without them nobody can guess a removed entry from its hash."""

    @property
    def identity(self) -> tuple[str, ...]:
        """The part that is unique in a log: the announcing service and the event's id.

        In version 1 the service is the first part of the action. There the entry of what could not be read names no
        service, and has the id that it claimed: services may claim one alike, so each such entry is known by its salt.
        """
        if self.source is not None:
            return self.source, self.id
        if self.action == MALFORMED:
            return self.action, self.id, self.salt
        return self.action.partition(".")[0], self.id

    @property
    def summary(self) -> str:
        """Actor, action and target in a line: `vault.secret_revealed by usr_… for usr_… on secret sec_…, denied`."""
        behalf = "" if self.on_behalf_of is None else f" for {self.on_behalf_of}"
        kind = "" if self.target_kind is None else f"{self.target_kind} "
        outcome = "" if self.outcome in (None, "success") else f", {self.outcome}"
        return f"{self.action} by {self.actor}{behalf} on {kind}{self.target}{outcome}"
