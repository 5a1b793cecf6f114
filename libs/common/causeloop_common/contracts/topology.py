"""The bus in one place: the subjects of each service, the streams, the durable consumers.

Everything follows from the contracts: a service may publish the commands it is an issuer of and its own events,
subscribe to its own commands, and wake its own relay, nothing else.

JetStream and the operator (`causeloop migrate`) have an account of their own. The account of the services imports from
it the subjects of events and dead letters, and the list of the streams. A service with a consumer reads it over another
connection, whose account imports only that consumer's requests: JetStream delivers to any subject that a pull names,
and there none leads further (docs/decisions/0023-streams-in-an-account-of-their-own.md).
"""

from collections.abc import Iterable, Iterator
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
"""NATS `max_payload`, at least; it counts headers."""

SERVER_LIMITS = f"max_payload: {MAX_PAYLOAD_BYTES}\nmax_control_line: 16384\n"
"""Of every nats-server. A CONNECT line carries the user's token, with all its permissions."""

STREAMS_ACCOUNT = "CAUSELOOP"
"""The account of JetStream and the operator. JetStream's folder has its name: under another the streams were empty."""

SERVICES_ACCOUNT = "SERVICES"

STREAMS_API = "JS.STREAMS.API"
"""The prefix of JetStream's requests in the account of the services, where the server itself answers `$JS.API`."""

_LIST = "STREAM.LIST"
"""Lists streams with their states. `STREAM.INFO` would do, too, but can be asked for the subjects of all messages."""

USER_INFO = "$SYS.REQ.USER.INFO"
"""The request with which every credential, and the operator, asks the server for its own permissions."""

PARTITIONS = 16
"""Of the stream of events, by tenant: consumers that share it take some each."""

_MESSAGE_BYTES = 128 * 1024
"""Of the largest message in a stream: twice what an event has with its headers, also one of an earlier version."""

_DAY = 86_400
_GIB = 1024**3


@dataclass(frozen=True)
class Stream:
    """A JetStream stream: limits retention, new messages refused when full, file storage.

    `stored_as` is the subject under which it keeps a message that was published to `published_as` (NATS ADR-30).
    """

    name: str
    subjects: tuple[str, ...]
    max_age_seconds: int
    max_bytes: int
    max_message_bytes: int = _MESSAGE_BYTES
    duplicate_window_seconds: int = 2 * 3600
    published_as: str = ""
    stored_as: str = ""


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

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects that it delivers: events, and those that were dead letters of this consumer."""
        return self.filters if self.ack_all else (*self.filters, redrive(self))


EVENTS = Stream(
    "EVENTS",
    ("evt.>", "redrive.*"),
    max_age_seconds=7 * _DAY,
    max_bytes=8 * _GIB,
    published_as="evt.*.*.*",
    stored_as=f"evt.{{{{partition({PARTITIONS},1)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{{{{wildcard(3)}}}}",
)
"""`evt.<tenant>.<service>.<event>`, stored as `evt.<partition>.<tenant>.<service>.<event>`."""
DEAD = Stream(
    "DEAD", ("dead.>",), max_age_seconds=30 * _DAY, max_bytes=_GIB, max_message_bytes=_MESSAGE_BYTES + 16 * 1024
)
"""A letter has the headers and data of a message of `EVENTS`, and headers of its own."""
STREAMS: tuple[Stream, ...] = (EVENTS, DEAD)

AUDIT_INTAKE = Consumer("audit_intake", "EVENTS", "audit", ("evt.>",), ack_all=True)
_FOLLOWED: dict[type[Event], None] = dict.fromkeys(
    [tenancy.WorkspaceCreated, *(purpose.ends for purpose in vault.PURPOSES if purpose.ends is not None)]
)
VAULT_EVENTS = Consumer(
    "vault_events",
    "EVENTS",
    "vault",
    tuple(f"evt.*.*.{kind.type}" for kind in _FOLLOWED),
    ack_wait_seconds=10,
)
CONSUMERS: tuple[Consumer, ...] = (AUDIT_INTAKE, VAULT_EVENTS)

HEADS = "head.*"
"""`head.<tenant>`: a tenant's log has grown, its new size as ASCII decimal. A wake-up without durability, no truth."""

FLOOR = "floor.events"
"""How far the intake has acknowledged the stream of events, each second. Without durability: silence means nothing."""

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
    of_audit = [HEADS, FLOOR, *map(entered, OWNERS)] if service == "audit" else []
    return [f"now.*.{kind.type}" for kind in prompt(service)] + of_audit


def follows(service: str) -> list[str]:
    """Live subjects of the events that make a service forget: before the answer, and from the relay if that is lost."""
    return [f"{way}.*.{kind.type}" for kind in forgetting(service) for way in ("now", "evt")]


def listens(service: str) -> list[str]:
    """Live subjects that a service may subscribe: what makes it forget; and receipts, or the sizes of logs."""
    return follows(service) + ([HEADS] if service == "gateway" else [entered(service), FLOOR])


def entered(service: str) -> str:
    """The subject of the receipts for a service's events: the log has them. Live, without durability."""
    return f"entered.{service}"


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
    """The subjects that one credential may publish and subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def head(tenant: str) -> str:
    """The subject of the new size of a tenant's log."""
    return HEADS.replace("*", tenant)


def readers() -> tuple[str, ...]:
    """The services with a consumer."""
    return tuple(service for service in SERVICES if any(consumer.service == service for consumer in CONSUMERS))


def reader(service: str) -> str:
    """The name of the credential with which a service reads its consumers; its account has the name in capitals."""
    return f"{service}_reader"


def account(name: str) -> str:
    """The account of a credential."""
    if name == OPERATOR:
        return STREAMS_ACCOUNT
    return SERVICES_ACCOUNT if name in SERVICES else name.upper()


def inbox(service: str) -> str:
    """The private inbox prefix of a credential."""
    return f"_INBOX.{service}"


def answers(issuer: str, audience: str) -> str:
    """The prefix of the subjects on which a service answers an issuer's commands. Nobody else may publish there."""
    return f"{inbox(issuer)}.{audience}"


def _requests(consumer: Consumer) -> dict[str, str]:
    """The requests that the reader of a consumer sends to JetStream, and the kind of their responses."""
    target = f"{consumer.stream}.{consumer.name}"
    asked = {f"CONSUMER.INFO.{target}": "singleton", f"CONSUMER.MSG.NEXT.{target}": "stream"}
    return {**asked, f"CONSUMER.RESET.{target}": "singleton"} if consumer.ack_all else asked


def _acknowledgements(consumer: Consumer) -> tuple[str, str]:
    """The subjects of a consumer's acknowledgements, in both shapes (NATS ADR-15)."""
    target = f"{consumer.stream}.{consumer.name}.>"
    return f"$JS.ACK.{target}", f"$JS.ACK.*.*.{target}"


def reset(consumer: Consumer) -> str:
    """The subject of the request that resets a consumer to what was last acknowledged."""
    return f"{STREAMS_API}.CONSUMER.RESET.{consumer.stream}.{consumer.name}"


def next_message(consumer: Consumer) -> str:
    """The subject of the request for a consumer's next messages."""
    return f"{STREAMS_API}.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}"


def acknowledgement(consumer: Consumer) -> str:
    """The subject of an acknowledgement of a message that there never was."""
    return f"$JS.ACK.{consumer.stream}.{consumer.name}.1.{2**53}.1.0.0"


def api(name: str) -> str:
    """The prefix of JetStream's requests for a credential."""
    return "$JS.API" if name == OPERATOR else STREAMS_API


def redrive(consumer: Consumer) -> str:
    """The subject on which the operator gives a dead letter back to its consumer."""
    return f"redrive.{consumer.name}"


def dead(consumer: Consumer, number: int) -> str:
    """The subject of the dead letter of a message with this number in the stream: each has its own."""
    return f"dead.{consumer.service}.{consumer.name}.{number}"


def wake(service: str) -> str:
    """The subject on which a service's replicas wake their relay; an empty message, without durability."""
    return f"wake.{service}"


def due(service: str) -> str:
    """The subject on which a new job wakes the workers of all replicas; an empty message, without durability."""
    return f"due.{service}"


def permissions(service: str) -> BusPermissions:
    """The exact bus permissions of a credential."""
    if service == OPERATOR:
        return BusPermissions(("$JS.API.>", "redrive.*"), (f"{inbox(OPERATOR)}.>",))
    for consumer in CONSUMERS:
        if service == reader(consumer.service):
            return _reading(service)
    asks = [kind.subject for kind in command_kinds().values() if service in kind.issuers]
    publish = [*sorted(asks), f"evt.*.{service}.*", f"dead.{service}.*.*", *publishes(service)]
    publish += [f"{answers(issuer, audience)}.>" for issuer, audience in pairs() if audience == service]
    subscribe = [f"{inbox(service)}.>", *listens(service)]
    if service in OWNERS:
        publish += [f"{STREAMS_API}.{_LIST}", wake(service)]
        subscribe += [f"cmd.{service}.>", wake(service)]
    if service in with_jobs():
        publish.append(due(service))
        subscribe.append(due(service))
    return BusPermissions(tuple(publish), tuple(subscribe))


def _reading(name: str) -> BusPermissions:
    """The permissions of a reader: the requests and acknowledgements of its service's consumers."""
    consumers = [consumer for consumer in CONSUMERS if reader(consumer.service) == name]
    asks = [f"{STREAMS_API}.{request}" for consumer in consumers for request in _requests(consumer)]
    acknowledges = [subject for consumer in consumers for subject in _acknowledgements(consumer)]
    return BusPermissions((*asks, *acknowledges), (f"{inbox(name)}.>",))


def nats_config(public_keys: dict[str, str]) -> str:
    """The part that the configuration of every nats-server has, wherever it runs: size limits, and the accounts.

    `public_keys` has the nkey of every service, every reader and the operator.
    """
    exports, accounts = [], []
    for account, users, requests, passed in _importers():
        exports += [_export(f"$JS.API.{request}", account, kind) for request, kind in requests.items()]
        exports += [_export(subject, account, "singleton") for subject in passed]
        imports = [_import(f"$JS.API.{request}", f"{STREAMS_API}.{request}") for request in requests]
        imports += [_import(subject, subject) for subject in passed]
        accounts.append(_account(account, users, public_keys, f"    imports: [\n{_lines(imports)}    ]\n"))
    more = f"    jetstream: enabled\n    exports: [\n{_lines(exports)}    ]\n"
    accounts.insert(0, _account(STREAMS_ACCOUNT, (OPERATOR,), public_keys, more))
    return f"{SERVER_LIMITS}accounts {{\n{''.join(accounts)}}}\n"


def _importers() -> Iterator[tuple[str, tuple[str, ...], dict[str, str], list[str]]]:
    """Each account that imports from that of the streams, its users, requests with their responses, and subjects."""
    yield SERVICES_ACCOUNT, SERVICES, {_LIST: "singleton"}, ["evt.>", "dead.>"]
    for service in readers():
        consumers = [consumer for consumer in CONSUMERS if consumer.service == service]
        requests = {name: kind for consumer in consumers for name, kind in _requests(consumer).items()}
        passed = [subject for consumer in consumers for subject in _acknowledgements(consumer)]
        yield reader(service).upper(), (reader(service),), requests, passed


_RESPONSE_SECONDS = 10
"""For so long the server keeps the way back from a request: longer than any pull waits."""


def _account(name: str, users: Iterable[str], public_keys: dict[str, str], more: str) -> str:
    return f"  {name} {{\n{more}    users: [\n{_lines(_user(user, public_keys) for user in users)}    ]\n  }}\n"


def _export(subject: str, account: str, responses: str) -> str:
    more = f'response_type: {responses}, threshold: "{_RESPONSE_SECONDS}s"'
    return f'{{ service: "{subject}", accounts: [{account}], {more} }}'


def _import(subject: str, to: str) -> str:
    return f'{{ service: {{ account: {STREAMS_ACCOUNT}, subject: "{subject}" }}, to: "{to}" }}'


def _user(name: str, public_keys: dict[str, str]) -> str:
    allowed = permissions(name)
    granted = (*allowed.publish, USER_INFO), allowed.subscribe
    publish, subscribe = (", ".join(f'"{subject}"' for subject in subjects) for subjects in granted)
    rights = f"publish: {{ allow: [{publish}] }}, subscribe: {{ allow: [{subscribe}] }}"
    return f"{{ nkey: {public_keys[name]}, permissions: {{ {rights} }} }}"


def _lines(items: Iterable[str]) -> str:
    return "".join(f"      {item}\n" for item in items)
