"""Every command subject, called over the bus in the name of a second tenant, naming the first one's things."""

import time
from collections.abc import Callable
from typing import Any

import orjson
from nats.aio.client import Client
from pydantic import BaseModel

from causeloop_common import ids
from causeloop_common.context import ServiceTokens
from causeloop_common.contracts import topology
from causeloop_common.contracts.base import Command
from causeloop_common.errors import AppError
from causeloop_common.keys import KeyRing, Sealer
from causeloop_common.messaging.replies import Replies
from causeloop_common.messaging.wire import DEADLINE, ERROR_CODE, TOKEN
from causeloop_common.permissions import OF_THE_JOB, SELF, Internal, Permission
from tests.isolation.tenants import Tenants, makes_its_own
from tests.support.bus import asking, through
from tests.support.stack import Stack, until

OUTCOMES: dict[str, set[str]] = {
    "cmd.auth.exchange": {"ok", "not_found"},
    "cmd.auth.refresh": {"ok", "not_found"},
    "cmd.auth.logout": {"ok"},
    "cmd.auth.authenticate": {"unauthorized"},
    "cmd.auth.create_api_token": {"ok"},
    "cmd.auth.list_api_tokens": {"ok"},
    "cmd.auth.revoke_api_token": {"not_found"},
    "cmd.tenancy.create_workspace": {"conflict"},  # with b's own, which is there already
    "cmd.tenancy.get_workspace": {"ok"},
    "cmd.tenancy.list_my_workspaces": {"ok"},
    "cmd.tenancy.resolve": {"ok"},
    "cmd.vault.put_secret": {"ok", "conflict"},
    "cmd.vault.get_secret": {"not_found"},
    "cmd.vault.list_secrets": {"ok"},
    "cmd.vault.reveal_secret": {"not_found"},
    "cmd.vault.create_key": {"ok", "conflict"},  # with b's own
    "cmd.vault.list_keys": {"ok"},
    "cmd.vault.encrypt": {"not_found"},
    "cmd.vault.decrypt": {"not_found"},
    "cmd.vault.get_keyring": {"ok"},
    "cmd.vault.rotate_keyring": {"ok", "conflict"},  # b's own
    "cmd.vault.seal": {"ok"},
    "cmd.vault.store_sealed_value": {"ok"},  # b's own, under a's name
    "cmd.vault.open_sealed_value": {"not_found"},
    "cmd.vault.delete_sealed_value": {"ok"},  # of nothing
    "cmd.vault.sign_checkpoints": {"forbidden"},  # but in the installation's realm
    "cmd.vault.get_audit_key": {"ok"},
    **{
        f"cmd.{owner}.{operation}": outcomes
        for owner in ("auth", "tenancy", "vault", "audit")
        for operation, outcomes in {
            "list_jobs": {"ok"},
            "get_job": {"not_found"},
            "cancel_job": {"not_found"},
        }.items()
    },
    "cmd.audit.list_events": {"ok", "not_found"},
    "cmd.audit.get_event": {"not_found"},
    "cmd.audit.get_checkpoint": {"ok"},
    "cmd.audit.get_event_proof": {"not_found"},
    "cmd.audit.get_consistency": {"ok"},
    "cmd.audit.read_stream": {"ok"},
}
"""What a second tenant may be answered, with every permission there is."""

EVERY_PERMISSION = (*map(str, Permission), *map(str, Internal), SELF)
KINDS = topology.command_kinds()


def split(kind: type[Command[Any]]) -> tuple[list[str], list[str]]:
    """A command's required and optional fields."""
    fields = kind.fields()
    return [n for n, f in fields.items() if f.is_required()], [n for n, f in fields.items() if not f.is_required()]


def of_its_owner(tenants: Tenants, kind: type[Command[Any]], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, with a's job of the service that is asked."""
    return fields | {"id": tenants.a.jobs[kind.service]} if kind.operation in ("get_job", "cancel_job") else fields


class TestEveryCommand:
    async def test_is_known_here_and_answered_by_somebody(self, stack: Stack) -> None:
        assert sorted(KINDS) == sorted(OUTCOMES), "Say in OUTCOMES what a second tenant may be answered."
        for subject, kind in KINDS.items():
            for issuer in kind.issuers:
                async with stack.on_bus(issuer) as client:
                    assert await ask(client, subject, b"{}", "") == "unauthorized", subject  # and not: no responders

    async def test_tells_and_changes_nothing_of_another_tenant(
        self, stack: Stack, tenants: Tenants, tell: Callable[[str], None]
    ) -> None:
        before = await tenants.footprint()
        count = 0
        for subject, kind in sorted(KINDS.items(), key=lambda item: makes_its_own(item[1].operation)):
            for issuer in sorted(kind.issuers):
                async with stack.bus_of(issuer) as bus:
                    for tenant in (tenants.b.person.workspace, tenants.b.person.id):
                        for named in await tenants.requests(kind.operation, *split(kind)):
                            fields = of_its_owner(tenants, kind, named)
                            ctx = asking(tenant, tenants.b.person.id, *EVERY_PERMISSION, issuer=issuer)
                            outcome, answer = "ok", ""
                            try:
                                reply: BaseModel = await bus.call(ctx, kind.model_validate(fields))
                                answer = reply.model_dump_json()
                            except AppError as error:
                                outcome, answer = error.code, f"{error.detail} {error.fields}"
                            count += 1
                            where = (subject, issuer, tenant, fields, outcome, answer[:300])
                            assert outcome in self.allowed(kind, tenants, tenant), where
                            assert tenants.nothing_of_a(answer, str(fields)), where
                            if "workspace_id" in fields or ("wait_for" in fields and "position" not in fields):
                                assert outcome == "not_found", where
        assert await tenants.footprint() == before
        tell(
            f"isolation: {len(KINDS)} command subjects, {count} commands of a second tenant: nothing of another tenant"
        )

    def allowed(self, kind: type[Command[Any]], tenants: Tenants, tenant: str) -> set[str]:
        """What may be answered; a realm is no workspace and cannot become one."""
        in_realm = {"get_workspace": {"not_found"}, "create_workspace": {"internal_error"}}
        for operation in ("get_checkpoint", "get_consistency", "read_stream"):  # its log has a refusal of its own
            in_realm[operation] = {"ok", "conflict"}
        return (
            in_realm.get(kind.operation, OUTCOMES[kind.subject])
            if tenant.startswith("usr_")
            else OUTCOMES[kind.subject]
        )

    async def test_takes_the_tenant_from_the_token_and_from_nothing_else(
        self, stack: Stack, tenants: Tenants, tell: Callable[[str], None]
    ) -> None:
        before = await tenants.footprint()
        a, b = tenants.a.person, tenants.b.person
        count = 0
        for kind in KINDS.values():
            for issuer in sorted(kind.issuers):
                keys = keyring(stack, issuer)
                pair = keys.pair(issuer, kind.service)
                token = ServiceTokens(keys).mint(asking(b.workspace, b.id, *EVERY_PERMISSION), kind.service)
                fields = of_its_owner(tenants, kind, (await tenants.requests(kind.operation, split(kind)[0], []))[0])
                command = kind.model_validate(fields)
                in_clear = command.to_json()
                sealed_for_b = on_the_bus(kind, in_clear, pair, b.workspace)
                sealed_for_a = on_the_bus(kind, in_clear, pair, a.workspace)
                async with stack.on_bus(issuer) as client:

                    async def code(
                        body: bytes,
                        sent: str = token,
                        deadline: str | None = None,
                        client: Client = client,
                        subject: str = kind.subject,
                    ) -> str:
                        return await ask(client, subject, body, sent, deadline)

                    for name in {"workspace_id", "tenant", "ten", "tenant_id"} - set(kind.model_fields):
                        more = orjson.dumps({**orjson.loads(in_clear), name: a.workspace})
                        assert await code(on_the_bus(kind, more, pair, b.workspace)) == "validation_error", (
                            kind.subject,
                            name,
                        )
                        count += 1
                    if kind.is_sealed:
                        for body in (in_clear, sealed_for_a):
                            assert await code(body) == "validation_error", kind.subject
                        count += 2
                    no_right = ServiceTokens(keys).mint(asking(b.workspace, b.id), kind.service)
                    # Without any permission there is no job that could be listed, and none of b's that this id names.
                    refused = OUTCOMES[kind.subject] if kind.permission == OF_THE_JOB else {"forbidden"}
                    assert await code(sealed_for_b, no_right) in refused, kind.subject
                    others = [
                        ServiceTokens(keys).mint(asking(b.workspace, b.id, *EVERY_PERMISSION), audience)
                        for audience in others_than(kind, keys)
                    ]
                    for wrong in (*others, token[:-2] + "zz", "", a.token, a.realm_token):
                        assert await code(sealed_for_b, wrong) == "unauthorized", (kind.subject, wrong)
                    assert await code(sealed_for_b, deadline="") == "unauthorized", kind.subject
                    count += 6 + len(others)
        assert await tenants.footprint() == before
        tell(f"isolation: {count} commands with a tenant in the payload, or another's token or seal: all refused")

    async def test_whose_time_is_over_is_not_run(self, stack: Stack, tenants: Tenants) -> None:
        before, counted = await tenants.footprint(), 0
        for kind in KINDS.values():
            passed_over = f'causeloop_commands_total{{command="{kind.subject}",outcome="late"}}'
            for issuer in sorted(kind.issuers):
                keys, a = keyring(stack, issuer), tenants.a.person
                token = ServiceTokens(keys).mint(asking(a.workspace, a.id, *EVERY_PERMISSION), kind.service)
                fields = of_its_owner(tenants, kind, (await tenants.requests(kind.operation, split(kind)[0], []))[0])
                late = str(int(time.time() * 1000) - 1)
                met = await stack.metric(kind.service, passed_over)
                async with stack.on_bus(issuer) as client:
                    headers = {TOKEN: token, DEADLINE: late}
                    in_clear = kind.model_validate(fields).to_json()
                    body = on_the_bus(kind, in_clear, keys.pair(issuer, kind.service), a.workspace)
                    await client.publish(kind.subject, body, f"{topology.answers(issuer, kind.service)}.1", headers)
                    await through(client)

                async def is_met(kind: type[Command[Any]] = kind, line: str = passed_over, met: float = met) -> bool:
                    return await stack.metric(kind.service, line) == met + 1

                await until(f"{kind.subject} was passed over", is_met, seconds=5)
                counted += 1
        assert counted == sum(len(kind.issuers) for kind in KINDS.values())
        assert await tenants.footprint() == before


def keyring(stack: Stack, service: str) -> KeyRing:
    return KeyRing.load(service, stack.environ[service][f"CAUSELOOP_KEYS_{service.upper()}"])


def on_the_bus(kind: type[Command[Any]], in_clear: bytes, pair: bytes, tenant: str) -> bytes:
    """A command's body as it is sent: sealed for the tenant, if the command is one that is sealed."""
    return Sealer(pair).seal(in_clear, f"{kind.subject}:{tenant}") if kind.is_sealed else in_clear


def others_than(kind: type[Command[Any]], keys: KeyRing) -> list[str]:
    """Audiences besides the command's own that this issuer has a key for."""
    return [a for i, a in topology.pairs() if i == keys.service and a != kind.service]


async def ask(client: Client, subject: str, body: bytes, token: str, deadline: str | None = None) -> str:
    """The code of a raw command's answer; 'ok' when it was done."""
    if deadline is None:
        deadline = str(int((time.time() + 5) * 1000))
    headers = {TOKEN: token, DEADLINE: deadline, "Causeloop-Request-Id": ids.new("req")}
    reply = await (await Replies.subscribe(client)).ask(subject, body, headers, 5)
    return (reply.headers or {}).get(ERROR_CODE, "ok")
