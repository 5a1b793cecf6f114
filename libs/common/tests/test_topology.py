"""The subjects that each credential may use on the bus: derived from the contracts, and enforced by the server."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from causeloop_common import inbox
from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import Consumer, permissions

TENANT = "ws_01h455vb4pex5vsknk084sn02q"
FORGETTING: dict[str, tuple[str, ...]] = {
    "gateway": (),
    "auth": ("auth.session_ended", "auth.token_revoked"),
    "tenancy": ("tenancy.member_added",),
    "vault": ("vault.keyring_rotated",),
    "audit": (),
}
"""The events that make others forget, once more."""
REMEMBERING: dict[str, tuple[str, ...]] = {"gateway": ("auth", "tenancy"), "vault": ("vault",)}
"""By service, the owners of what it remembers."""

CREDENTIALS = (*topology.SERVICES, "audit_reader", "vault_reader", topology.OPERATOR)


class TestPermissions:
    @pytest.mark.parametrize("service", topology.SERVICES)
    def test_a_service_asks_what_the_contracts_let_it_ask_and_nothing_else(self, service: str) -> None:
        asked = {subject for subject in permissions(service).publish if subject.startswith("cmd.")}

        assert asked == {kind.subject for kind in topology.command_kinds().values() if service in kind.issuers}

    @pytest.mark.parametrize("service", topology.SERVICES)
    def test_a_service_announces_in_its_own_name_only(self, service: str) -> None:
        announced = {s for s in permissions(service).publish if s.startswith(("evt.", "dead."))}

        assert announced == {f"evt.*.{service}.*", f"dead.{service}.*.*"}

    @pytest.mark.parametrize("service", topology.SERVICES)
    def test_a_service_hears_its_commands_its_inbox_and_what_it_listens_to(self, service: str) -> None:
        answers = {f"cmd.{service}.>"} if service in topology.OWNERS else set()
        calls = {f"wake.{service}"} if service in topology.OWNERS else set()
        calls |= {f"due.{service}"} if service in topology.with_jobs() else set()

        assert set(permissions(service).subscribe) == {
            f"_INBOX.{service}.>",
            *answers,
            *calls,
            *topology.listens(service),
        }

    def test_only_events_that_make_others_forget_are_published_at_once(self) -> None:
        published = {service: {s for s in permissions(service).publish if s[:4] == "now."} for service in FORGETTING}
        assert published == {service: {f"now.*.{name}" for name in names} for service, names in FORGETTING.items()}

    def test_a_service_follows_the_events_that_make_it_forget_and_no_other(self) -> None:
        for service, owners in {**dict.fromkeys(topology.SERVICES, ()), **REMEMBERING}.items():
            names = {name for owner in owners for name in FORGETTING[owner]}
            followed = {s for s in permissions(service).subscribe if s.startswith(("now.", "evt."))}
            assert followed == {f"{way}.*.{name}" for name in names for way in ("now", "evt")}

    def test_only_a_service_with_an_outbox_wakes_a_relay_and_only_its_own(self) -> None:
        for service in topology.SERVICES:
            calls = [subject for subject in permissions(service).publish if subject.startswith("wake")]
            assert calls == ([f"wake.{service}"] if service in topology.OWNERS else [])

    def test_only_a_service_with_jobs_wakes_workers_and_only_its_own(self) -> None:
        for service in topology.SERVICES:
            calls = [subject for subject in permissions(service).publish if subject.startswith("due")]
            assert calls == ([f"due.{service}"] if service in topology.OWNERS else [])

    def test_only_audit_says_how_large_a_log_is_and_only_the_gateway_hears_it(self) -> None:
        assert topology.head(TENANT) == f"head.{TENANT}"
        assert [s for s in topology.SERVICES if "head.*" in permissions(s).publish] == ["audit"]
        assert [s for s in topology.SERVICES if "head.*" in permissions(s).subscribe] == ["gateway"]

    def test_nobody_but_audits_reader_reads_the_stream_and_only_through_its_consumer(self) -> None:
        assert topology.readers() == ("vault", "audit")
        states = {"JS.STREAMS.API.STREAM.LIST"}
        for service in topology.SERVICES:
            rights = {s for s in permissions(service).publish if s.startswith(("$JS", "JS"))}
            assert rights == (states if service != "gateway" else set())
        assert permissions("audit_reader") == topology.BusPermissions(
            (
                "JS.STREAMS.API.CONSUMER.INFO.EVENTS.audit_intake",
                "JS.STREAMS.API.CONSUMER.MSG.NEXT.EVENTS.audit_intake",
                "JS.STREAMS.API.CONSUMER.RESET.EVENTS.audit_intake",
                "$JS.ACK.EVENTS.audit_intake.>",  # both shapes of acknowledgements: ADR-15, ADR-53
                "$JS.ACK.*.*.EVENTS.audit_intake.>",
            ),
            ("_INBOX.audit_reader.>",),
        )

    def test_no_right_has_a_wildcard_where_it_could_reach_others(self) -> None:
        for service in topology.SERVICES:
            for subject in permissions(service).publish:
                assert not subject.startswith((">", "*", "$JS.API", "JS.STREAMS.API.>", "cmd.*", "cmd.>"))
            for subject in permissions(service).subscribe:
                assert subject.split(".")[0] in (
                    "_INBOX",
                    "cmd",
                    "due",
                    "entered",
                    "evt",
                    "floor",
                    "head",
                    "now",
                    "wake",
                )
                assert subject not in ("_INBOX.>", "cmd.>", "evt.>")

    def test_a_service_answers_each_of_its_issuers_in_an_inbox_for_its_answers_alone(self) -> None:
        for service in topology.SERVICES:
            inboxes = {subject for subject in permissions(service).publish if subject.startswith("_INBOX")}
            assert inboxes == {f"_INBOX.{issuer}.{service}.>" for issuer, one in topology.pairs() if one == service}

    def test_the_operator_makes_streams_and_says_nothing(self) -> None:
        assert permissions(topology.OPERATOR) == topology.BusPermissions(
            ("$JS.API.>", "redrive.*"), ("_INBOX.operator.>",)
        )

    def test_a_consumer_gives_its_service_the_right_to_pull_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(topology, "CONSUMERS", (Consumer("mail", "EVENTS", "auth", ("evt.*.*.tenancy.*",)),))

        assert "JS.STREAMS.API.CONSUMER.MSG.NEXT.EVENTS.mail" in permissions("auth_reader").publish
        assert topology.readers() == ("auth",)
        for service in topology.SERVICES:
            assert "JS.STREAMS.API.CONSUMER.MSG.NEXT.EVENTS.mail" not in permissions(service).publish


class TestConfiguration:
    def test_exports_to_each_account_what_its_users_may_ask_of_the_streams_and_nothing_else(self) -> None:
        text = topology.nats_config(
            dict.fromkeys((*topology.SERVICES, "audit_reader", "vault_reader", topology.OPERATOR), "U")
        )
        exported = set(re.findall(r'{ service: "(\S+)", accounts: \[(\S+)\], response_type: (\w+)', text))

        own = {
            ("$JS.API.CONSUMER.INFO.EVENTS.audit_intake", "singleton"),
            ("$JS.API.CONSUMER.MSG.NEXT.EVENTS.audit_intake", "stream"),
            ("$JS.API.CONSUMER.RESET.EVENTS.audit_intake", "singleton"),
            ("$JS.ACK.EVENTS.audit_intake.>", "singleton"),
            ("$JS.ACK.*.*.EVENTS.audit_intake.>", "singleton"),
        }
        vaults = {
            (subject.replace("audit_intake", "vault_events"), kind) for subject, kind in own if "RESET" not in subject
        }
        shared = {(subject, "singleton") for subject in ("$JS.API.STREAM.LIST", "evt.>", "dead.>")}
        assert exported == {
            *((subject, "SERVICES", responses) for subject, responses in shared),
            *((subject, "AUDIT_READER", responses) for subject, responses in own),
            *((subject, "VAULT_READER", responses) for subject, responses in vaults),
        }
        for account, subjects in (("SERVICES", shared), ("AUDIT_READER", own), ("VAULT_READER", vaults)):
            block = text.partition(f"  {account} {{\n")[2].partition("    users")[0]
            imported = set(re.findall(r'{ service: { account: CAUSELOOP, subject: "(\S+)" }, to: "(\S+)" }', block))
            assert imported == {(subject, subject.replace("$JS.API", "JS.STREAMS.API")) for subject, _ in subjects}

    def test_permits_what_a_command_may_weigh(self) -> None:
        text = topology.nats_config(
            dict.fromkeys((*topology.SERVICES, "audit_reader", "vault_reader", topology.OPERATOR), "U")
        )

        assert f"max_payload: {4 * 1024 * 1024}\n" in text


class TestPairs:
    def test_are_those_of_the_contracts(self) -> None:
        assert topology.pairs() == [
            ("audit", "vault"),
            ("auth", "tenancy"),
            ("auth", "vault"),
            ("gateway", "audit"),
            ("gateway", "auth"),
            ("gateway", "tenancy"),
            ("gateway", "vault"),
            ("vault", "tenancy"),
        ]


class TestStreams:
    def test_events_and_dead_letters_are_kept_bounded_and_deduplicated_for_two_hours(self) -> None:
        assert {stream.name: stream.subjects for stream in topology.STREAMS} == {
            "EVENTS": ("evt.>", "redrive.*"),
            "DEAD": ("dead.>",),
        }
        for stream in topology.STREAMS:
            assert stream.duplicate_window_seconds == 2 * 3600
            assert stream.max_age_seconds > 24 * 3600  # longer than the outbox keeps what it published
            assert stream.max_bytes > 0

    def test_a_claim_in_the_inbox_outlives_its_event_and_a_dead_letter_of_it_that_is_redriven(self) -> None:
        again = topology.EVENTS.max_age_seconds + topology.DEAD.max_age_seconds
        assert again < inbox.KEPT_DAYS * 24 * 3600

    def test_every_consumer_is_of_a_declared_stream_and_service(self) -> None:
        for consumer in topology.CONSUMERS:
            assert consumer.stream in {stream.name for stream in topology.STREAMS}
            assert consumer.service in topology.OWNERS


class Refusing:
    """A service's connection, and what the server refused it."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.client: Client

    async def on_error(self, error: Exception) -> None:
        self.refused.append(str(error))

    async def publish(self, subject: str) -> bool:
        """Whether the server let it."""
        before = len(self.refused)
        await self.client.publish(subject, b"x", reply=f"{topology.inbox('nobody')}.x")
        await self._answered()
        return len(self.refused) == before

    async def subscribe(self, subject: str) -> bool:
        before = len(self.refused)
        await self.client.subscribe(subject)
        await self._answered()
        return len(self.refused) == before

    async def _answered(self) -> None:
        await self.client.flush()  # nats-py sends this ping ahead of what is waiting
        await self.client.flush()


@pytest.fixture
async def connect(house: Any) -> AsyncIterator[Callable[[str], Awaitable[Refusing]]]:
    made: list[Refusing] = []

    async def enter(service: str) -> Refusing:
        one = Refusing()
        seed = house.installation.seeds[service]
        one.client = await nats.connect(
            house.nats.url, nkeys_seed_str=seed, inbox_prefix=topology.inbox(service), error_cb=one.on_error
        )
        made.append(one)
        return one

    yield enter
    await asyncio.gather(*(one.client.close() for one in made))


class TestServer:
    async def test_nobody_enters_without_a_credential(self, house: Any) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.nats.port)
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')

        assert await reader.readline() == b"-ERR 'Authorization Violation'\r\n"
        writer.close()
        await writer.wait_closed()

    @pytest.mark.parametrize("service", topology.SERVICES)
    async def test_lets_each_service_ask_only_what_it_may(
        self, connect: Callable[[str], Awaitable[Refusing]], service: str
    ) -> None:
        one = await connect(service)

        allowed = {subject for subject in topology.command_kinds() if await one.publish(subject)}

        assert allowed == {kind.subject for kind in topology.command_kinds().values() if service in kind.issuers}

    @pytest.mark.parametrize("service", topology.SERVICES)
    async def test_lets_each_service_announce_only_in_its_own_name(
        self, connect: Callable[[str], Awaitable[Refusing]], service: str
    ) -> None:
        one = await connect(service)

        allowed = {owner for owner in topology.SERVICES if await one.publish(f"evt.{TENANT}.{owner}.something")}

        assert allowed == {service}

    @pytest.mark.parametrize("service", topology.SERVICES)
    async def test_lets_no_service_read_what_is_for_another(
        self, connect: Callable[[str], Awaitable[Refusing]], service: str
    ) -> None:
        one = await connect(service)
        others = [other for other in (*topology.SERVICES, topology.OPERATOR) if other != service]

        everything = (
            ">",
            "_INBOX.>",
            "cmd.>",
            "evt.>",
            "dead.>",
            "now.>",
            "wake.>",
            "due.>",
            "$JS.>",
            "JS.>",
            "$SYS.>",
        )
        inboxes = [f"{topology.inbox(other)}.>" for other in others]
        commands = [f"cmd.{other}.>" for other in others]
        calls = [f"{call}.{other}" for call in ("wake", "due") for other in others]
        assert [s for s in (*everything, *inboxes, *commands, *calls) if await one.subscribe(s)] == []

    @pytest.mark.parametrize(
        "subject",
        [
            "$JS.API.STREAM.CREATE.MINE",
            "$JS.API.STREAM.DELETE.EVENTS",
            "$JS.API.STREAM.PURGE.EVENTS",
            "$JS.API.STREAM.MSG.GET.EVENTS",
            "$JS.API.DIRECT.GET.EVENTS",
            "$JS.API.CONSUMER.CREATE.EVENTS",
            "$JS.API.CONSUMER.CREATE.EVENTS.mine.evt.>",
            "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.mine",
            "$JS.API.CONSUMER.DELETE.EVENTS.audit_intake",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.other",
            "$JS.API.CONSUMER.RESET.EVENTS.other",
            "JS.STREAMS.API.STREAM.PURGE.EVENTS",
            "JS.STREAMS.API.CONSUMER.MSG.NEXT.EVENTS.other",
        ],
    )
    async def test_lets_no_service_touch_streams_or_foreign_consumers(
        self, connect: Callable[[str], Awaitable[Refusing]], subject: str
    ) -> None:
        for service in ("gateway", "audit"):
            assert not await (await connect(service)).publish(subject)

    async def test_lets_nobody_but_an_answering_service_write_to_an_inbox(
        self, connect: Callable[[str], Awaitable[Refusing]]
    ) -> None:
        for service in topology.SERVICES:
            one = await connect(service)
            assert not await one.publish("_INBOX.gateway.guessed.1")
            let = {other for other in topology.OWNERS if await one.publish(f"_INBOX.gateway.{other}.seen.1")}
            assert let == {service} - {"gateway"}
