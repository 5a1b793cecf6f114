"""The vault on the bus: every command reaches its use case, and nobody's reaches it who may not."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from causeloop_common import ids
from causeloop_common.application import Application
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts import vault
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.base import Command, commands
from causeloop_common.contracts.vault import (
    CreateKey,
    Decrypt,
    DeleteSealedValue,
    Encrypt,
    GetAuditKey,
    GetKeyring,
    GetSecret,
    GrownLog,
    KeyringRotated,
    ListKeys,
    ListSecrets,
    OpenSealedValue,
    PutSecret,
    RevealSecret,
    RotateKeyring,
    Seal,
    SignCheckpoints,
    StoreSealedValue,
)
from causeloop_common.errors import (
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    InvalidInput,
    NotFound,
    Timeout,
    Unavailable,
)
from causeloop_common.messaging import Bus
from causeloop_common.permissions import OF_THE_JOB, ROLES, Internal
from causeloop_dev.testing import Servers
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.merkle import EMPTY_ROOT, leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_vault import app
from tests.support.overhearing import overhear
from tests.support.stack import until

CANARY = "s3cr3t-canary"
PUT = PutSecret.model_validate({"path": "db/password", "value": CANARY})
SEAL = Seal.model_validate({"purpose": "session", "record": "ses_1", "plaintext": CANARY})
STORE = StoreSealedValue.model_validate({"purpose": "session", "record": "ses_1", "plaintext": CANARY})
OPEN = OpenSealedValue(purpose="session", record="ses_1")
GROWN = GrownLog(tenant=ids.new("ws"), old_size=0, size=1, root=leaf_hash(b"one").hex(), proof=[])
SIGN = SignCheckpoints(logs=[GROWN])
PLAIN = base64.b64encode(CANARY.encode()).decode()
ENCRYPT = Encrypt.model_validate({"name": "orders", "plaintext": PLAIN})
EXAMPLES: dict[type[Command[Any]], Command[Any]] = {
    PutSecret: PUT,
    GetSecret: GetSecret(path="db/password"),
    ListSecrets: ListSecrets(),
    GetKeyring: GetKeyring(),
    RotateKeyring: RotateKeyring(),
    RevealSecret: RevealSecret(path="db/password"),
    CreateKey: CreateKey(name="orders", type="aes256-gcm"),
    ListKeys: ListKeys(),
    Encrypt: ENCRYPT,
    Decrypt: Decrypt(name="orders", ciphertext="clv1:1:x"),
    Seal: SEAL,
    StoreSealedValue: STORE,
    OpenSealedValue: OPEN,
    DeleteSealedValue: DeleteSealedValue(purpose="session", record="ses_1"),
    SignCheckpoints: SIGN,
    GetAuditKey: GetAuditKey(),
}


@pytest.fixture(scope="module")
async def application(compose: Callable[..., Awaitable[Application]]) -> Application:
    return await compose(app.create, "vault")


@pytest.fixture(scope="module")
async def gateway(servers: Servers, application: Application) -> AsyncIterator[Bus]:
    async with servers.connected("gateway") as bus:
        yield bus


@pytest.fixture(scope="module")
async def auth(servers: Servers, gateway: Bus) -> AsyncIterator[Bus]:
    async with servers.connected("auth") as bus:
        yield bus


@pytest.fixture(scope="module")
async def audit(servers: Servers, gateway: Bus) -> AsyncIterator[Bus]:
    async with servers.connected("audit") as bus:
        yield bus


class TestMemory:
    async def test_is_cleared_of_what_an_act_ends_then_the_event_is_published_then_the_act_is_answered(
        self, application: Application, gateway: Bus, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order: list[str] = []
        publish = application.bus.publish

        async def publishing(event: Announced) -> None:
            await publish(event)
            order.append(f"published {event.type}")

        def forgot(tag: str) -> None:
            if tag == workspace.tenant:  # the relay may still announce what other tests did
                order.append(f"forgot {tag}")

        monkeypatch.setattr(application.bus, "publish", publishing)
        monkeypatch.setattr(application.memories, "on_forget", [forgot])
        await gateway.call(workspace, PUT)
        assert order == []
        (database,) = application._databases
        async with database.transaction(workspace) as tx:
            tx.publish(KeyringRotated(keyring=workspace.tenant, version=2))
        assert order[:2] == [f"forgot {workspace.tenant}", "published vault.keyring_rotated"]


class TestSecrets:
    async def test_put_get_list_and_reveal(self, gateway: Bus, workspace: AuthContext) -> None:
        made = await gateway.call(workspace, PUT)

        assert await gateway.call(workspace, GetSecret(path="db/password")) == made
        assert (await gateway.call(workspace, ListSecrets())).data == [made]
        shown = await gateway.call(workspace, RevealSecret(path="db/password"))
        assert (shown.id, shown.version, shown.value.get_secret_value()) == (made.id, 1, CANARY)

    async def test_a_value_is_sealed_on_the_way_there_and_back(
        self, gateway: Bus, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_the_bus = overhear(gateway, monkeypatch)
        await gateway.call(workspace, PUT)

        await gateway.call(workspace, RevealSecret(path="db/password"))
        assert len(on_the_bus) == 4
        assert all(CANARY.encode() not in body for body in on_the_bus)

    async def test_a_replay_says_that_it_is_one_and_another_request_is_refused(
        self, gateway: Bus, workspace: AuthContext
    ) -> None:
        keyed = replace(workspace, idempotency=Idempotency("key", "print"))
        first, again = [await gateway.request(keyed, PutSecret, PUT.to_json()) for _ in range(2)]

        assert (first.replayed, again.replayed) == (False, True)
        assert first.body == again.body
        with pytest.raises(IdempotencyMismatch, match="was used with another request"):
            await gateway.call(replace(workspace, idempotency=Idempotency("key", "other")), PUT)

    async def test_refusals_arrive_with_their_sentences(self, gateway: Bus, workspace: AuthContext) -> None:
        with pytest.raises(NotFound, match="There is no secret 'db/password' in this workspace"):
            await gateway.call(workspace, GetSecret(path="db/password"))
        with pytest.raises(Conflict, match="version is not the one you named"):
            await gateway.call(workspace, PutSecret.model_validate({"path": "a", "value": "b", "version": 3}))

    async def test_the_tenant_is_the_token_s(self, gateway: Bus, workspace: AuthContext) -> None:
        await gateway.call(workspace, PUT)

        with pytest.raises(NotFound, match="There is no secret"):
            await gateway.call(replace(workspace, tenant=ids.new("ws")), RevealSecret(path="db/password"))


class TestKeys:
    async def test_create_list_encrypt_and_decrypt(self, gateway: Bus, workspace: AuthContext) -> None:
        made = await gateway.call(workspace, EXAMPLES[CreateKey])
        assert (await gateway.call(workspace, ListKeys())).data == [made]

        sealed = await gateway.call(workspace, ENCRYPT)
        shown = await gateway.call(workspace, Decrypt(name="orders", ciphertext=sealed.ciphertext))
        assert shown.plaintext is not None
        assert shown.plaintext.get_secret_value() == PLAIN

    async def test_items_are_sealed_both_ways(
        self, gateway: Bus, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await gateway.call(workspace, EXAMPLES[CreateKey])
        command = Encrypt.model_validate({"name": "orders", "items": [{"plaintext": PLAIN, "context": {"row": "1"}}]})

        on_the_bus = overhear(gateway, monkeypatch)
        (sealed,) = (await gateway.call(workspace, command)).results or []
        back = Decrypt.model_validate(
            {"name": "orders", "items": [{"ciphertext": sealed.ciphertext, "context": {"row": "1"}}]}
        )
        (shown,) = (await gateway.call(workspace, back)).results or []

        asked, answered, asked_back, answered_back = on_the_bus
        assert set(orjson.loads(answered)) == {"results"}  # of ciphertexts
        assert not any(body.startswith(b'{"') for body in (asked, asked_back, answered_back))
        assert all(PLAIN.encode() not in body for body in on_the_bus)
        assert shown.plaintext is not None
        assert (shown.plaintext.get_secret_value(), shown.error) == (PLAIN, None)

    async def test_what_does_not_open_is_reported_of_the_field(self, gateway: Bus, workspace: AuthContext) -> None:
        await gateway.call(workspace, EXAMPLES[CreateKey])
        with pytest.raises(InvalidInput) as refused:
            await gateway.call(workspace, Decrypt(name="orders", ciphertext="clv1:1:x"))
        assert refused.value.fields == {"ciphertext": ["does not open under this key in this context"]}


class TestSeal:
    async def test_auth_has_personal_data_sealed_in_a_realm(self, auth: Bus) -> None:
        person = ids.realm("https://issuer.test", ids.new("sub"))
        ctx = AuthContext(
            tenant=person, principal=person, permissions=frozenset({Internal.SEAL}), request_id=ids.new("req")
        )

        sealed = await auth.call(ctx, SEAL)

        assert sealed.ciphertext.startswith("clv1:1:")
        assert sealed != await auth.call(ctx, SEAL)

    @pytest.mark.parametrize("purpose", ["secret", "factor", "probe"])
    async def test_a_purpose_that_the_asking_service_did_not_declare_is_refused(
        self, auth: Bus, workspace: AuthContext, purpose: str
    ) -> None:
        foreign = SEAL.model_copy(update={"purpose": purpose})

        with pytest.raises(Forbidden, match=f"purpose '{purpose}' is not the asking service's"):
            await auth.call(replace(workspace, permissions=frozenset({Internal.SEAL})), foreign)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("purpose", name) for name in ("data-key", "auth/session", "", "a" * 65)]
        + [("record", record) for record in ("", "a" * 129, "ses 1", "ses_1/", "\n")]
        + [("plaintext", SecretStr("x" * 65_537))],
    )
    async def test_what_is_no_purpose_record_or_plaintext_is_refused(
        self, auth: Bus, workspace: AuthContext, field: str, value: Any
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            await auth.call(
                replace(workspace, permissions=frozenset({Internal.SEAL})), SEAL.model_copy(update={field: value})
            )
        assert list(refused.value.fields or {}) == [field]


class TestSealedValues:
    async def test_auth_stores_opens_and_deletes_a_value_that_is_sealed_on_the_way(
        self, auth: Bus, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asking = replace(workspace, permissions=frozenset(Internal))
        on_the_bus = overhear(auth, monkeypatch)

        await auth.call(asking, STORE)
        assert (await auth.call(asking, OPEN)).plaintext.get_secret_value() == CANARY
        await auth.call(asking, EXAMPLES[DeleteSealedValue])
        with pytest.raises(NotFound, match="There is no sealed value of 'ses_1'"):
            await auth.call(asking, OPEN)

        assert len(on_the_bus) == 8
        assert all(CANARY.encode() not in body for body in on_the_bus)


class TestCheckpoints:
    async def test_audit_has_a_log_signed_and_the_gateway_tells_the_key(
        self, audit: Bus, gateway: Bus, workspace: AuthContext
    ) -> None:
        asking = replace(workspace, tenant=ids.INSTALLATION, permissions=frozenset({Internal.SIGN_CHECKPOINTS}))
        mine = GROWN.model_copy(update={"tenant": workspace.tenant})

        (signed,) = (await audit.call(asking, SignCheckpoints(logs=[mine]))).logs
        key = await gateway.call(workspace, GetAuditKey())

        checkpoint = Checkpoint.verified(str(signed.checkpoint), VerifierKey.parse(key.key))
        assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (key.origin, 1, leaf_hash(b"one"))
        assert key.origin == f"causeloop.localhost/log/{workspace.tenant}"

    async def test_nobody_else_may_ask(
        self,
        gateway: Bus,
        auth: Bus,
        workspace: AuthContext,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(SignCheckpoints, "timeout", 0.5)
        asking = replace(workspace, permissions=frozenset({Internal.SIGN_CHECKPOINTS}))
        for bus in (gateway, auth):  # the bus itself does not let it through, and nobody answers
            caplog.clear()
            with pytest.raises((Forbidden, Timeout, Unavailable)):
                await bus.call(asking, SIGN)

            async def refused() -> bool:
                return f'permissions violation for publish to "{SIGN.subject}"' in caplog.text.lower()

            await until("the bus refused it", refused)

    async def test_a_log_that_lost_its_end_is_shown_where_to_begin(self, audit: Bus, workspace: AuthContext) -> None:
        asking = replace(workspace, tenant=ids.INSTALLATION, permissions=frozenset({Internal.SIGN_CHECKPOINTS}))
        await audit.call(asking, SIGN)

        shorter = GROWN.model_copy(update={"size": 0, "root": EMPTY_ROOT.hex()})
        (answer,) = (await audit.call(asking, SignCheckpoints(logs=[shorter]))).logs
        assert (answer.checkpoint, answer.refused, answer.signed_size) == (None, None, 1)


class TestRights:
    def test_every_command_has_an_example(self) -> None:
        assert set(EXAMPLES) == {kind for kind in commands(vault) if kind.permission != OF_THE_JOB}

    @pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.operation)
    async def test_without_its_permission_no_command_is_done(
        self, gateway: Bus, auth: Bus, audit: Bus, workspace: AuthContext, kind: type[Command[Any]]
    ) -> None:
        everything = ROLES["owner"] | set(Internal)
        powerless = replace(workspace, permissions=frozenset(everything - {kind.permission}))
        asking = gateway if "gateway" in kind.issuers else auth if "auth" in kind.issuers else audit

        with pytest.raises(Forbidden, match=f"This needs the permission '{kind.permission}'"):
            await asking.request(powerless, kind, EXAMPLES[kind].to_json())
