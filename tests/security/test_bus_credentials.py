"""What a service's credential can do on the bus, tried with every credential on every subject there is.

The rights to publish and subscribe are written here once more, from the architecture and not from the code that makes
the server's configuration. A message counts as published when the observer, who receives everything, has it.
`test_streams_account` tries what a credential could do to the streams.
"""

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable

import jwt
import nkeys
from nats.aio.subscription import Subscription

from causeloop_cli.keys import public_key
from causeloop_common import ids
from causeloop_common.context import LIFETIME_SECONDS
from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import OPERATOR, OWNERS, SERVICES, SERVICES_ACCOUNT, STREAMS_ACCOUNT
from causeloop_common.messaging import public_subject
from causeloop_common.messaging.replies import Replies
from causeloop_common.messaging.wire import DEADLINE, ERROR_CODE, TOKEN
from tests.support.bus import through
from tests.support.stack import Stack, until

KINDS = topology.command_kinds()
TENANT = ids.new("ws")
PERSON = ids.realm("https://issuer.test", "somebody")
INTAKE = "EVENTS.audit_intake"
READERS = {"audit_reader": INTAKE, "vault_reader": "EVENTS.vault_events"}
CREDENTIALS = (*SERVICES, *READERS, OPERATOR)
ACCOUNTS = {**{name: name.upper() for name in READERS}, OPERATOR: STREAMS_ACCOUNT}
"""The accounts of those that are not in the services'."""
OTHERS = "EVENTS.vault_events"
FORGETTING = ("auth.session_ended", "auth.token_revoked", "tenancy.member_added", "vault.keyring_rotated")
"""The events that make others forget, once more."""

ASKING = {
    ("gateway", "auth"), ("gateway", "tenancy"), ("gateway", "vault"), ("gateway", "audit"), ("auth", "tenancy"),
    ("auth", "vault"), ("vault", "tenancy"), ("audit", "vault"),
}  # fmt: skip
"""Which service asks which, once more."""

JETSTREAM = [
    "INFO", "STREAM.NAMES", "STREAM.LIST", "STREAM.CREATE.SPY", "STREAM.UPDATE.EVENTS", "STREAM.DELETE.EVENTS",
    "STREAM.PURGE.EVENTS", "STREAM.MSG.GET.EVENTS", "STREAM.MSG.DELETE.EVENTS", "STREAM.SNAPSHOT.EVENTS",
    "STREAM.RESTORE.EVENTS", "STREAM.INFO.EVENTS", "STREAM.INFO.DEAD", "STREAM.LEADER.STEPDOWN.EVENTS",
    "STREAM.PEER.REMOVE.EVENTS", "DIRECT.GET.EVENTS", "DIRECT.GET.EVENTS.evt.x", "CONSUMER.CREATE.EVENTS",
    "CONSUMER.CREATE.EVENTS.spy", "CONSUMER.CREATE.EVENTS.spy.evt.>", "CONSUMER.DURABLE.CREATE.EVENTS.spy",
    f"CONSUMER.DELETE.{INTAKE}", f"CONSUMER.PAUSE.{INTAKE}", f"CONSUMER.UNPIN.{INTAKE}", f"CONSUMER.RESET.{INTAKE}",
    f"CONSUMER.RESET.{OTHERS}", "CONSUMER.NAMES.EVENTS",
    "CONSUMER.LIST.EVENTS", f"CONSUMER.INFO.{INTAKE}", f"CONSUMER.INFO.{OTHERS}", f"CONSUMER.MSG.NEXT.{INTAKE}",
    f"CONSUMER.MSG.NEXT.{OTHERS}", f"CONSUMER.LEADER.STEPDOWN.{INTAKE}", "META.LEADER.STEPDOWN", "SERVER.REMOVE",
    "ACCOUNT.PURGE.CAUSELOOP",
]  # fmt: skip


def sayable() -> list[str]:
    """Every kind of subject, each service's and nobody's."""
    requests = [name.replace(".>", ".x") for name in JETSTREAM]
    subjects = [*KINDS, *(f"{prefix}.{name}" for prefix in ("$JS.API", "JS.STREAMS.API") for name in requests)]
    for service in (*SERVICES, OPERATOR, "invented"):
        subjects += [f"cmd.{service}.invented", f"cmd.{service}", f"evt.{TENANT}.{service}.invented"]
        subjects += [
            f"evt.{TENANT}.{service}.deep.er",
            f"head.{service}.x",
            f"dead.{service}.x",
            f"dead.{service}.x.y",
            f"job.{service}.x",
            f"_INBOX.{service}.x",
            *(f"_INBOX.{service}.{other}.x" for other in SERVICES),
            f"wake.{service}",
            f"wake.{service}.x",
            f"now.{TENANT}.{service}.invented",
        ]
    subjects += [f"{way}.{TENANT}.{name}" for way in ("now", "evt") for name in FORGETTING]
    subjects += [f"$JS.ACK.{name}.1.1.1.1.0" for name in (INTAKE, OTHERS)]
    subjects += [f"$JS.ACK.domain.hash.{name}.1.1.1.1.0" for name in (INTAKE, OTHERS)]
    subjects += [
        f"head.{TENANT}",
        f"head.{TENANT}.x",
        "head",
        "$JS.FC.EVENTS.x",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.USER.INFO",
        "_R_.x",
        "_INBOX.x",
        "evt.x",
        "x",
    ]
    return subjects


def may_say(service: str, subject: str) -> bool:
    """Architecture, section 4: the commands it is an issuer of, its own events and dead letters, its relay; audit its
    consumer and how large a log is."""
    if subject == topology.USER_INFO:  # its own permissions
        return True
    if service == OPERATOR:
        return subject.startswith("$JS.API.")
    if (consumer := READERS.get(service)) is not None:
        requests = ("INFO", "MSG.NEXT", "RESET") if consumer == INTAKE else ("INFO", "MSG.NEXT")
        own = [f"JS.STREAMS.API.CONSUMER.{name}.{consumer}" for name in requests]
        return subject in own or (subject.startswith("$JS.ACK.") and consumer in subject)
    first, *rest = subject.split(".")
    match first:
        case "cmd":
            return subject in KINDS and service in KINDS[subject].issuers
        case "evt":
            return len(rest) == 3 and rest[1] == service
        case "dead":
            return len(rest) == 3 and rest[0] == service
        case "now":
            return rest[1] == service and ".".join(rest[1:]) in FORGETTING
        case "wake":
            return rest == [service] and service in topology.OWNERS
        case "head":
            return service == "audit" and len(rest) == 1
        case "_INBOX":
            return len(rest) == 3 and rest[1] == service and (rest[0], service) in ASKING
        case "JS":
            return subject == "JS.STREAMS.API.STREAM.LIST" and service in OWNERS
        case _:
            return False


def hearable() -> list[str]:
    """Every kind of subscription: single subjects, each service's all, and everybody's."""
    patterns = [*KINDS, ">", "*.>", "cmd.>", "cmd.*.*", "evt.>", "evt.*.*.*", f"evt.{TENANT}.>", "dead.>", "job.>"]
    patterns += ["wake.>", "wake.*", "now.>", "now.*.*.*", f"now.{TENANT}.>"]
    patterns += [f"{way}.*.{name}" for way in ("now", "evt") for name in FORGETTING]
    patterns += ["head.*", f"head.{TENANT}", "head.>", "head.*.x"]
    patterns += [
        "_INBOX.>",
        "_INBOX.*.>",
        "_R_.>",
        "JS.>",
        "JS.STREAMS.API.>",
        "$JS.>",
        "$JS.API.>",
        "$JS.ACK.>",
        f"$JS.ACK.{INTAKE}.>",
        "$SYS.>",
    ]
    for service in CREDENTIALS:
        patterns += [f"cmd.{service}.>", f"evt.*.{service}.>", f"dead.{service}.>", f"_INBOX.{service}.>"]
        patterns += [f"wake.{service}", f"now.*.{service}.>"]
    return patterns


def may_hear(service: str, pattern: str) -> bool:
    """Its own commands, inbox and relay's calls; the gateway what evicts its memory, and how large logs are."""
    if pattern == f"_INBOX.{service}.>":
        return True
    if service in OWNERS and pattern.startswith(f"cmd.{service}."):
        return True
    if pattern == f"wake.{service}":
        return service in topology.OWNERS
    heads = ("head.*", f"head.{TENANT}", "head.>")  # the server takes the last for the first; nobody sends more anyway
    if pattern.startswith(("now.*.", "evt.*.")) and (event := pattern.split(".", 2)[2]) in FORGETTING:
        return event.split(".")[0] in {"gateway": ("auth", "tenancy"), "vault": ("vault",)}.get(service, ())
    return service == "gateway" and pattern in heads


async def unheard(_: Exception) -> None:
    """The server's complaints are not what is tested: it could complain and do it all the same."""


async def heard(subscription: Subscription) -> AsyncIterator[tuple[str, bytes]]:
    """What is waiting in a subscription."""
    while subscription.pending_msgs:
        message = await subscription.next_msg(1)
        yield message.subject, message.data


class TestEveryCredential:
    async def test_can_say_what_it_has_to_say_and_nothing_else(self, stack: Stack, tell: Callable[[str], None]) -> None:
        count = 0
        for service in CREDENTIALS:
            # The operator may change streams, so only what is not for streams is tried.
            subjects = [s for s in sayable() if service != OPERATOR or not s.startswith("$JS.API.")]
            mark = f"mark of {service} {time.monotonic_ns()}".encode()
            account = ACCOUNTS.get(service, SERVICES_ACCOUNT)
            async with (
                stack.on_bus(None, account=account) as observer,
                stack.on_bus(service, error_cb=unheard) as client,
            ):
                everything = await observer.subscribe(">")
                await through(observer)
                for subject in subjects:
                    await client.publish(subject, mark)
                await through(client, observer)
                # What audit's consumer delivers, the observer receives as well, with its partition.
                shown = {public_subject(subject) async for subject, data in heard(everything) if data == mark}
            assert shown == {subject for subject in subjects if may_say(service, subject)}, service
            count += len(subjects)
        tell(f"bus: {len(CREDENTIALS)} credentials, {count} publications: heard where the architecture has it only")

    async def test_can_hear_what_it_has_to_hear_and_nothing_else(
        self, stack: Stack, tell: Callable[[str], None]
    ) -> None:
        count = 0
        for service in CREDENTIALS:
            account = ACCOUNTS.get(service, SERVICES_ACCOUNT)
            async with (
                stack.on_bus(None, account=account) as observer,
                stack.on_bus(service, error_cb=unheard) as client,
            ):
                listening = [
                    (pattern, await client.subscribe(pattern, queue=queue))
                    for number, pattern in enumerate(hearable())
                    for queue in ("", f"spy{number}", "vault")
                ]
                await through(client)
                mark = f"for {service}".encode()
                spoken = [
                    *KINDS, *(f"cmd.{name}.invented" for name in SERVICES), *(f"_INBOX.{name}.x" for name in SERVICES),
                    *(f"evt.{TENANT}.{name}.invented" for name in SERVICES), *(f"dead.{name}.x" for name in SERVICES),
                    "_INBOX.operator.x", *(f"_INBOX.{name}.x" for name in READERS), "_INBOX.x", "job.vault.x",
                    f"head.{TENANT}",
                    *(f"wake.{name}" for name in SERVICES),
                    *(f"now.{TENANT}.{name}.invented" for name in SERVICES),
                    *(f"{way}.{TENANT}.{name}" for way in ("now", "evt") for name in FORGETTING),
                ]  # fmt: skip
                for subject in spoken:
                    await observer.publish(subject, mark)
                await through(observer, client)
                for pattern, subscription in listening:
                    received = {subject async for subject, _ in heard(subscription)}
                    assert not received or may_hear(service, pattern), (service, pattern, received)
                    if may_hear(service, pattern) and subscription.queue != "vault":
                        assert received, (service, pattern)
                count += len(listening)
        tell(f"bus: {len(CREDENTIALS)} credentials, {count} subscriptions: none hears what is another's")

    async def test_that_is_not_known_is_not_let_in(self, stack: Stack) -> None:
        stranger = nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)))
        known = public_key(stack.installation.seeds["vault"])
        for claim in ({}, {"nkey": stranger.public_key.decode()}, {"nkey": known}, {"user": "a", "pass": "b"}):
            reader, writer = await asyncio.open_connection("127.0.0.1", stack.nats.port)
            try:
                greeting = json.loads((await reader.readline()).removeprefix(b"INFO "))
                if "nkey" in claim:
                    signed = base64.urlsafe_b64encode(stranger.sign(greeting["nonce"].encode())).rstrip(b"=")
                    claim = {**claim, "sig": signed.decode()}  # noqa: PLW2901
                writer.write(
                    b"CONNECT " + json.dumps({"verbose": False, "protocol": 1, **claim}).encode() + b"\r\nPING\r\n"
                )
                assert b"Authorization Violation" in await asyncio.wait_for(reader.read(), 5), claim
            finally:
                writer.close()
                await writer.wait_closed()


class TestAnAnswer:
    """A server or service answers with its own rights: where it answers to must not be the asker's choice."""

    async def test_of_a_service_goes_to_an_inbox_of_an_issuer_and_nowhere_else(
        self, stack: Stack, tell: Callable[[str], None]
    ) -> None:
        count = 0
        async with stack.on_bus(None) as observer:
            everything = [
                await observer.subscribe(pattern)
                for pattern in (f"evt.{TENANT}.*.forged", "_INBOX.*.x", "_INBOX.*.*.x", "*.x")
            ]
            await through(observer)
            for subject, kind in KINDS.items():
                for issuer in sorted(kind.issuers):
                    line = f'causeloop_commands_total{{command="{subject}",outcome="astray"}}'
                    before = await stack.metric(kind.service, line)
                    targets = [
                        f"evt.{TENANT}.{kind.service}.forged", "$JS.API.STREAM.INFO.DEAD", "cmd.auth.authenticate",
                        *(f"_INBOX.{other}.x" for other in CREDENTIALS if other not in kind.issuers),
                        f"_INBOX.{issuer}.x", f"_INBOX.{issuer}.{issuer}.x", "_INBOX.x", "",
                    ]  # fmt: skip
                    async with stack.on_bus(issuer) as client:
                        for target in targets:
                            await client.publish(subject, b"{}", reply=target)
                        await through(client)

                    async def all_met(line: str = line, least: float = before + len(targets)) -> bool:
                        return await stack.metric(line.split(".")[1], line) == least

                    await until(f"{subject} met them", all_met, seconds=5)
                    count += len(targets)
            await through(observer)
            for subscription in everything:
                assert [message async for message in heard(subscription)] == []
        tell(f"bus: {count} commands that asked for an answer elsewhere: none given")


class TestAToken:
    """A service token is made with the key of one pair; nobody outside of the pair has it."""

    async def test_of_a_pair_cannot_be_forged_by_anybody_else(self, stack: Stack, tell: Callable[[str], None]) -> None:
        count = 0
        for service in SERVICES:
            for issuer, audience in topology.pairs():
                if service in (issuer, audience):
                    continue
                kind = next(kind for kind in KINDS.values() if kind.service == audience and issuer in kind.issuers)
                async with stack.on_bus(issuer) as client:  # more than the forger has: audit cannot even send it
                    for token in forgeries(stack, service, issuer, audience, kind.permission):
                        headers = {TOKEN: token, DEADLINE: str(int((time.time() + 5) * 1000))}
                        reply = await (await Replies.subscribe(client)).ask(kind.subject, b"{}", headers, 5)
                        assert (reply.headers or {}).get(ERROR_CODE) == "unauthorized", (service, issuer, audience)
                        count += 1
        tell(f"bus: {count} tokens forged with the keys of other services: all refused")

    async def test_of_a_pair_does_what_that_issuer_may_ask_and_no_more(self, stack: Stack) -> None:
        for issuer, audience in topology.pairs():
            keys = stack.keys(issuer)
            for kind in KINDS.values():
                if kind.service != audience:
                    continue
                allowed = issuer in kind.issuers
                token = sign(keys[f"{issuer}>{audience}"], issuer, audience, [kind.permission], kind=issuer)
                answering = next(iter(kind.issuers))
                async with stack.on_bus(answering) as client:  # its own credential would not let the others publish
                    headers = {TOKEN: token, DEADLINE: str(int((time.time() + 5) * 1000))}
                    reply = await (await Replies.subscribe(client)).ask(kind.subject, b"[]", headers, 5)
                code = (reply.headers or {}).get(ERROR_CODE)
                assert code == ("validation_error" if allowed else "forbidden"), (issuer, kind.subject, code)

    async def test_that_audit_holds_keys_for_is_gateway_to_audit_or_audit_to_vault(self, stack: Stack) -> None:
        assert set(stack.keys("audit")) == {"audit>vault", "gateway>audit", "own"}
        for service in SERVICES:
            expected = {f"{i}>{a}" for i, a in topology.pairs() if service in (i, a)} | {"own"}
            assert set(stack.keys(service)) == expected
            environ = "\n".join(stack.environ[service].values())
            assert stack.installation.jwt_secret not in environ
            others = [seed for name, seed in stack.installation.seeds.items() if name != service]
            assert not [seed for seed in others if seed in environ]
            assert (stack.installation.master_key in environ) == (service == "vault")


def forgeries(stack: Stack, service: str, issuer: str, audience: str, permission: str) -> Iterable[str]:
    """Tokens of `issuer` for `audience` that a service can make with all it has."""
    for key in (*stack.keys(service).values(), stack.installation.seeds[service].encode(), b"", b"causeloop" * 8):
        for kind in {issuer, service}:
            if key:
                yield sign(key, issuer, audience, [permission], kind=kind)
    claims = {"iss": issuer, "aud": audience, "sub": PERSON, "ten": TENANT, "per": [permission]}
    claims |= {"iat": int(time.time()), "exp": int(time.time()) + LIFETIME_SECONDS}  # type: ignore[dict-item]
    yield jwt.encode(claims, "", algorithm="none", headers={"typ": "svc+jwt", "kid": issuer})


def sign(key: bytes, issuer: str, audience: str, permissions: list[str], *, kind: str) -> str:
    now = int(time.time())
    claims = {"iss": issuer, "aud": audience, "sub": PERSON, "ten": TENANT, "per": permissions}
    claims |= {"iat": now, "exp": now + LIFETIME_SECONDS}  # type: ignore[dict-item]
    return jwt.encode(claims, key, algorithm="HS256", headers={"typ": "svc+jwt", "kid": kind})
