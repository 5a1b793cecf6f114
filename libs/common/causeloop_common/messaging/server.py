"""The needs of a NATS server: a version, limits, and permissions for every subject that a credential uses."""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

import nats.errors
import orjson
from faststream.nats.broker.broker import UNRECOVERABLE_CONNECT_ERRORS
from nats.aio.client import Client

from causeloop_common.contracts import topology

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 2.0
_AGAIN_SECONDS = 5.0
_REMEMBERED_SECONDS = 15.0
_VERBS = ("publish", "subscribe")
_OLDER = "The server's configuration is older than this version: `causeloop keys --nats config` prints the accounts"
_OTHER = (
    "The server's configuration is another one than this version's: `causeloop keys --nats config` prints the accounts"
)


def unfit(client: Client) -> str | None:
    """A sentence that names what the connected server lacks and how it is set; None if it lacks nothing."""
    version = client.connected_server_version
    if (version.major, version.minor) < topology.SERVER_VERSION:
        least = ".".join(map(str, topology.SERVER_VERSION))
        return f"NATS_URL leads to a server of version {version.major}.{version.minor}. Use version {least} or later."
    if client.max_payload < topology.MAX_PAYLOAD_BYTES:
        return (
            f"NATS_URL leads to a server that permits messages of {client.max_payload} bytes. Set `max_payload: "
            f"{topology.MAX_PAYLOAD_BYTES}` in its configuration: `causeloop keys --nats config` prints it."
        )
    return None


def is_refusal(error: Exception) -> bool:
    """Whether the server refused a subject, which nats-py reports to its error callback only."""
    return "permissions violation" in str(error) and topology.USER_INFO.lower() not in str(error).lower()


def is_final(error: Exception) -> bool:
    """Whether FastStream lets no attempt to connect follow this error of a server."""
    return str(error).removeprefix("nats: ").strip("'").lower() in UNRECOVERABLE_CONNECT_ERRORS


class Rights:
    """Whether the server permits a credential every subject that this version needs, and does not permit it all.

    The server refuses a subscription without closing the connection, and a service without one of its subscriptions
    looks well: a gateway would accept revoked tokens. So the server is asked for the credential's permissions, with
    each connection, again when it refused something, as after it read a new configuration, and now and then.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lack: str | None = None
        """A sentence with the subjects that are not permitted; None if there is none."""
        self._asking: asyncio.Task[None] | None = None
        self._doubted = False
        self._asked_at = float("-inf")

    async def ask(self, client: Client) -> bool:
        """Ask once, and set `lack`; whether there was an answer."""
        self._asked_at = time.monotonic()
        try:
            answer = await client.request(topology.USER_INFO, timeout=_ANSWER_SECONDS)
            found = orjson.loads(answer.data)["data"]
            account, permitted = found["account"], found.get("permissions") or {}
        except (nats.errors.Error, OSError, TimeoutError, ValueError, LookupError, AttributeError):
            self.lack = f"NATS does not answer which subjects {self.name} may use. {_OLDER}."
            return False
        lacking = list(_lacking(self.name, permitted))
        self.lack = None
        if (declared := topology.account(self.name)) != account:
            self.lack = f"NATS has {self.name} in the account {account}, not in {declared}. {_OTHER}."
        elif unbounded := [verb for verb in _VERBS if _permits_all(permitted.get(verb))]:
            self.lack = f"NATS permits {self.name} to {' and '.join(unbounded)} every subject. {_OTHER}."
        elif permitted.get("responses"):
            self.lack = f"NATS permits {self.name} to answer to any subject (allow_responses). {_OTHER}."
        elif lacking:
            shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
            self.lack = f"NATS does not permit {self.name} to {shown}. {_OLDER}."
        return True

    def refresh(self, client: Client) -> None:
        """Ask again if that is some time ago: what is seldom used is refused as seldom."""
        if time.monotonic() - self._asked_at > _REMEMBERED_SECONDS:
            self.doubt(client)

    def doubt(self, client: Client) -> None:
        """Ask again, beside everything else, until there is an answer."""
        self._doubted = True
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._settle(client))

    def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()

    async def _settle(self, client: Client) -> None:
        while self._doubted and client.is_connected:
            self._doubted = False
            if not await self.ask(client):
                self._doubted = True
                await asyncio.sleep(_AGAIN_SECONDS)
        if self.lack is not None:
            _log.error("%s", self.lack)


def _lacking(name: str, permitted: dict[str, Any]) -> Iterable[str]:
    """The subjects that a credential needs and may not use, each with its verb: `publish wake.vault`."""
    needed = topology.permissions(name)
    for verb, subjects in zip(_VERBS, (needed.publish, needed.subscribe), strict=True):
        rules = permitted.get(verb) or {}
        allowed, denied = rules.get("allow"), rules.get("deny") or ()
        for subject in subjects:
            is_allowed = allowed is None or any(_covers(pattern, subject) for pattern in allowed)
            if not is_allowed or any(_covers(one, subject) or _covers(subject, one) for one in denied):
                yield f"{verb} {subject}"


def _permits_all(rules: dict[str, Any] | None) -> bool:
    """Whether rules permit every subject."""
    allowed = (rules or {}).get("allow")
    return allowed is None or ">" in allowed


def _covers(pattern: str, subject: str) -> bool:
    """Whether every subject that `subject` matches is one that `pattern` matches."""
    wide, narrow = pattern.split("."), subject.split(".")
    for place, word in enumerate(wide):
        if word == ">":
            return len(narrow) > place
        if place >= len(narrow) or narrow[place] == ">" or word not in ("*", narrow[place]):
            return False
    return len(wide) == len(narrow)
