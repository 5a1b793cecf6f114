"""Secrets in commands and answers are sealed on the bus, and a message's head has one reading."""

import asyncio
from dataclasses import replace

import pytest
from nats.aio.msg import Msg
from pydantic import SecretStr

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import Decrypt, Decrypted, RevealedSecret, RevealSecret
from causeloop_common.errors import Forbidden, Internal, InvalidInput
from causeloop_common.messaging import CommandRouter, wire
from tests.support.answering import CANARY, PUT, VIEW, Connect, Serve, answering
from tests.support.overhearing import overhear


class TestSealing:
    async def test_no_secret_is_readable_in_a_request_on_the_bus(self, bus: Connect, workspace: AuthContext) -> None:
        owner, seen = await bus("vault"), asyncio.get_running_loop().create_future()

        async def receive(message: Msg) -> None:
            seen.set_result(message)

        await owner.client.subscribe("cmd.vault.>", cb=receive)
        await owner.flush()
        asking = asyncio.create_task((await bus("gateway")).call(workspace, PUT))

        message = await asyncio.wait_for(seen, timeout=2)
        asking.cancel()
        assert b"a/b" not in message.data  # all of the body is one ciphertext
        assert CANARY.encode() not in message.data
        assert CANARY not in repr(message.headers)

    async def test_no_secret_is_readable_in_an_answer_on_the_bus(
        self, bus: Connect, serve: Serve, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = {"id": VIEW.id, "path": "a/b", "version": 1, "value": CANARY}
        await serve("vault", answering(RevealSecret, reply=RevealedSecret.model_validate(shown)))
        gateway, command = await bus("gateway"), RevealSecret(path="a/b")

        on_the_bus = overhear(gateway, monkeypatch)
        answer = await gateway.request(workspace, RevealSecret, command.to_json())
        revealed = await gateway.call(workspace, command)

        assert len(on_the_bus) == 4
        assert all(CANARY.encode() not in body for body in on_the_bus)
        assert on_the_bus[0] == command.to_json()  # which holds no secret
        assert b"a/b" not in on_the_bus[1]
        assert CANARY.encode() in answer.body
        assert CANARY not in repr(answer)
        assert revealed.value.get_secret_value() == CANARY

    async def test_an_answer_opens_for_its_tenant_and_command_only(
        self, bus: Connect, serve: Serve, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = {"id": VIEW.id, "path": "a/b", "version": 1, "value": CANARY}
        await serve("vault", answering(RevealSecret, reply=RevealedSecret.model_validate(shown)))
        gateway, command = await bus("gateway"), RevealSecret(path="a/b")
        on_the_bus = overhear(gateway, monkeypatch)
        answer = await gateway.request(workspace, RevealSecret, command.to_json())

        sealer, subject = gateway.sealers["gateway", "vault"], f"{RevealSecret.subject}.reply"
        assert sealer.open(on_the_bus[1], wire.label(subject, workspace.tenant)) == answer.body
        for other in (wire.label(subject, ids.new("ws")), wire.label(RevealSecret.subject, workspace.tenant)):
            with pytest.raises(ValueError, match="is not sealed for this receiver and message"):
                sealer.open(on_the_bus[1], other)
        with pytest.raises(ValueError, match="is not sealed for this receiver and message"):
            gateway.sealers["gateway", "auth"].open(on_the_bus[1], wire.label(subject, workspace.tenant))

    async def test_an_answer_that_was_not_sealed_is_refused(
        self, bus: Connect, serve: Serve, workspace: AuthContext
    ) -> None:
        """Of another type than the command's reply, it would leave in clear, or be opened though it is not sealed."""
        await serve("vault", answering(RevealSecret, reply=VIEW))

        with pytest.raises(Internal, match="Something failed on our side"):
            await (await bus("gateway")).call(workspace, RevealSecret(path="a/b"))


class TestTheHead:
    def test_is_a_line_for_each_header(self) -> None:
        assert wire.header_block({"A": "1", "B-C": "two words"}) == b"NATS/1.0\r\nA: 1\r\nB-C: two words\r\n\r\n"
        assert wire.header_block({}) == b"NATS/1.0\r\n\r\n"

    @pytest.mark.parametrize("value", ["x\r\nB: y", "x\ny", "x\r", "\n"])
    def test_no_value_begins_a_line_of_its_own(self, value: str) -> None:
        with pytest.raises(ValueError, match="must be one line"):
            wire.header_block({"A": value})
        with pytest.raises(ValueError, match="must be one line"):
            wire.header_block({value: "x"})


class TestThePlainForm:
    async def test_is_answered_by_hand_and_every_other_form_by_the_handler(
        self, bus: Connect, serve: Serve, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The checks before it are those of every command, and both answers are sealed alike."""
        read: list[bytes] = []

        async def decrypt(ctx: AuthContext, command: Decrypt) -> Decrypted:
            return Decrypted(plaintext=SecretStr(CANARY))

        async def by_hand(ctx: AuthContext, body: bytes) -> bytes | None:
            assert ctx.tenant == workspace.tenant
            read.append(body)
            return b'{"plaintext":"by hand"}' if len(read) == 1 else None

        await serve("vault", CommandRouter({Decrypt: decrypt}, plain={Decrypt: by_hand}))
        gateway, body = await bus("gateway"), Decrypt(name="a", ciphertext="x").to_json()
        on_the_bus = overhear(gateway, monkeypatch)
        answers = [(await gateway.request(workspace, Decrypt, body)).body for _ in range(2)]

        assert answers == [b'{"plaintext":"by hand"}', Decrypted(plaintext=SecretStr(CANARY)).to_json()]
        assert read == [body, body]
        assert not any(b"plaintext" in seen for seen in on_the_bus)
        with pytest.raises(Forbidden, match="keys:use"):
            await gateway.request(replace(workspace, permissions=frozenset()), Decrypt, body)
        with pytest.raises(InvalidInput) as refused:
            await gateway.request(workspace, Decrypt, b'{"name":"a","more":1}')
        assert list(refused.value.fields or {}) == ["more"]
        assert len(read) == 3
