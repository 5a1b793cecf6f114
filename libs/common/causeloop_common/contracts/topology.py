"""The bus in one place: the subjects of each service, the streams, the durable consumers.

Everything follows from the contracts: a service may publish the commands it is an issuer of and its own events,
subscribe to its own commands, and wake its own relay, nothing else. Only the operator (`causeloop migrate`) may change
streams and consumers; services compare and refuse on drift.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

from causeloop_common.contracts import audit, auth, gateway, tenancy, vault
from causeloop_common.contracts.base import Command, Event, commands, events

OWNERS: dict[str, ModuleType] = {"auth": auth, "tenancy": tenancy, "vault": vault, "audit": audit}
"""The services that answer commands."""

ANNOUNCERS: dict[str, ModuleType] = {"gateway": gateway, **OWNERS}
"""The services that announce events."""

SERVICES: tuple[str, ...] = tuple(ANNOUNCERS)
OPERATOR = "operator"

SERVER_VERSION = (2, 14)
"""The lowest version of nats-server: a consumer that is read in order is reset (NATS ADR-60)."""

MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
"""NATS `max_payload`; it counts headers."""

_DAY = 86_400
_GIB = 1024**3


@dataclass(frozen=True)
class Stream:
    """A JetStream stream: limits retention, new messages refused when full, file storage."""

    name: str
    subjects: tuple[str, ...]
    max_age_seconds: int
    max_bytes: int
    duplicate_window_seconds: int = 2 * 3600


@dataclass(frozen=True)
class Consumer:
    """A durable pull consumer of one service.

    `ack_all`: one acknowledgement covers all before it, so its reader resets it first, to read in the stream's order.
    """

    name: str
    stream: str
    service: str
    filters: tuple[str, ...]
    ack_all: bool = False
    ack_wait_seconds: int = 30
    max_ack_pending: int = 5_000


EVENTS = Stream("EVENTS", ("evt.>",), max_age_seconds=7 * _DAY, max_bytes=8 * _GIB)
DEAD = Stream("DEAD", ("dead.>",), max_age_seconds=30 * _DAY, max_bytes=_GIB)
STREAMS: tuple[Stream, ...] = (EVENTS, DEAD)

AUDIT_INTAKE = Consumer("audit_intake", "EVENTS", "audit", ("evt.>",), ack_all=True)
CONSUMERS: tuple[Consumer, ...] = (AUDIT_INTAKE,)

HEADS = "head.*"
"""`head.<tenant>`: a tenant's log has grown, its new size as ASCII decimal. A wake-up without durability, no truth."""

REMEMBERS: dict[str, tuple[str, ...]] = {"gateway": ("auth", "tenancy"), "vault": ("vault",)}
"""By service, the owners of what it remembers. It follows those of their events that have `forgets`."""


def prompt(service: str) -> list[type[Event]]:
    """The events of a service that make others forget.

    Each is also published live, before its act is answered, on `now.<tenant>.<service>.<event>`: core NATS, without
    durability, in no stream.
    """
    return [kind for kind in events(ANNOUNCERS[service]) if kind.forgets is not None]


def forgetting(service: str) -> list[type[Event]]:
    """The events that make a service forget what it remembers."""
    return [kind for owner in REMEMBERS.get(service, ()) for kind in prompt(owner)]


def publishes(service: str) -> list[str]:
    """Live subjects (core NATS, no durability) that this service alone may publish to."""
    return [f"now.*.{kind.type}" for kind in prompt(service)] + ([HEADS] if service == "audit" else [])


def follows(service: str) -> list[str]:
    """Live subjects of the events that make a service forget: before the answer, and from the relay if that is lost."""
    return [f"{way}.*.{kind.type}" for kind in forgetting(service) for way in ("now", "evt")]


def listens(service: str) -> list[str]:
    """Live subjects that a service may subscribe: what makes it forget; for the gateway also the sizes of logs."""
    return follows(service) + ([HEADS] if service == "gateway" else [])


def command_kinds() -> dict[str, type[Command[Any]]]:
    """Every command by subject."""
    return {kind.subject: kind for owner in OWNERS.values() for kind in commands(owner)}


def with_jobs() -> tuple[str, ...]:
    """The services that answer the commands about jobs."""
    return tuple(name for name, owner in OWNERS.items() if hasattr(owner, "JobEnded"))


def of_owner(kind: type[Command[Any]], owner: str) -> type[Command[Any]]:
    """A command that every owner answers, as that of one of them."""
    return cast(type[Command[Any]], vars(OWNERS[owner])[kind.__name__])


def pairs() -> list[tuple[str, str]]:
    """Every (issuer, audience) that some command allows."""
    return sorted({(issuer, kind.service) for kind in command_kinds().values() for issuer in kind.issuers})


@dataclass(frozen=True)
class BusPermissions:
    """The subjects that one credential may publish and subscribe to; it replies only to what it was asked."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def head(tenant: str) -> str:
    """The subject of the new size of a tenant's log."""
    return HEADS.replace("*", tenant)


def inbox(service: str) -> str:
    """The private inbox prefix of a service."""
    return f"_INBOX.{service}"


def reset(consumer: Consumer) -> str:
    """The subject of the request that resets a consumer to what was last acknowledged."""
    return f"$JS.API.CONSUMER.RESET.{consumer.stream}.{consumer.name}"


def wake(service: str) -> str:
    """The subject on which a service's replicas wake their relay; an empty message, without durability."""
    return f"wake.{service}"


def due(service: str) -> str:
    """The subject on which a new job wakes the workers of all replicas; an empty message, without durability."""
    return f"due.{service}"


def permissions(service: str) -> BusPermissions:
    """The exact bus permissions of a service."""
    if service == OPERATOR:
        return BusPermissions(("$JS.API.>",), (f"{inbox(OPERATOR)}.>",))
    asks = [kind.subject for kind in command_kinds().values() if service in kind.issuers]
    publish = [*sorted(asks), f"evt.*.{service}.>", f"dead.{service}.>", *publishes(service)]
    publish.append("$JS.API.STREAM.INFO.EVENTS")
    for consumer in CONSUMERS:
        if consumer.service == service:
            target = f"{consumer.stream}.{consumer.name}"
            publish += [
                f"$JS.API.CONSUMER.INFO.{target}",
                f"$JS.API.CONSUMER.MSG.NEXT.{target}",
                f"$JS.ACK.{target}.>",
                f"$JS.ACK.*.*.{target}.>",
            ]
            if consumer.ack_all:
                publish.append(reset(consumer))
    subscribe = [f"{inbox(service)}.>", *listens(service)]
    if service in OWNERS:
        publish.append(wake(service))
        subscribe += [f"cmd.{service}.>", wake(service)]
    if service in with_jobs():
        publish.append(due(service))
        subscribe.append(due(service))
    return BusPermissions(tuple(publish), tuple(subscribe))


_RESPONSES = '        allow_responses: { max: 1, expires: "1m" }\n'


def nats_config(public_keys: dict[str, str]) -> str:
    """The accounts part of a nats-server configuration; `public_keys` has the nkey of every service and operator."""
    users = []
    for service in (*SERVICES, OPERATOR):
        allowed = permissions(service)
        users.append(
            f"      {{ nkey: {public_keys[service]}, permissions: {{\n"
            f"        publish: {{ allow: [{_quoted(allowed.publish)}] }}\n"
            f"        subscribe: {{ allow: [{_quoted(allowed.subscribe)}] }}\n"
            f"{_RESPONSES if service in OWNERS else ''}      }} }}"
        )
    return "accounts {\n  CAUSELOOP {\n    jetstream: enabled\n    users: [\n" + "\n".join(users) + "\n    ]\n  }\n}\n"


def _quoted(subjects: tuple[str, ...]) -> str:
    return ", ".join(f'"{subject}"' for subject in subjects)
