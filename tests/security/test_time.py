"""What only time shows: clients that never come to an end, and credentials that have come to theirs."""

import asyncio
import time
from datetime import timedelta

from causeloop_common import ids
from tests.security.conftest import SLOW, Begun
from tests.support.stack import Person, Stack, content_of, refused, until


class TestASlowClient:
    async def test_whose_body_does_not_arrive_is_refused(self, begun: Begun) -> None:
        answers = await asyncio.gather(*begun.bodies)
        assert time.monotonic() - begun.since >= 14
        for answer in answers:
            assert answer.status == 400, answer
            assert answer.problem["code"] == "malformed"
            assert "15 seconds" in str(answer.problem["detail"])

    async def test_whose_head_does_not_arrive_is_let_go(self, begun: Begun) -> None:
        answers = await asyncio.gather(*begun.heads)
        assert [answer.status for answer in answers] == [0] * SLOW


class TestACredential:
    async def test_of_the_issuer_is_refused_once_it_has_expired(self, stack: Stack, begun: Begun) -> None:
        async def is_refused() -> bool:
            body = {"subject_token": begun.short_lived}
            answer = await stack.http.post("/v1/auth/exchange", json=body)
            if answer.status_code == 200:
                return False
            return "has expired" in refused(answer, 401, "invalid_grant")["detail"]

        await until("the issuer's token has expired", is_refused, seconds=8)

    async def test_of_ours_is_refused_once_it_has_expired(self, stack: Stack, owner: Person) -> None:
        token = await owner.personal_token("secrets:read")
        async with stack.sql() as sql, sql.transaction():
            await sql.execute("SET LOCAL session_replication_role = replica")
            await sql.execute(
                "UPDATE auth.tokens SET expires_at = now() - $2::interval WHERE workspace_id = $1",
                ids.tenant_uuid(owner.workspace),
                timedelta(seconds=1),
            )
        refused(await owner.get("/secrets", token=token["token"]), 401, "unauthorized")
        content_of(await owner.get("/secrets"))

    async def test_of_a_session_is_refused_once_the_session_has_expired(self, stack: Stack, owner: Person) -> None:
        async with stack.sql() as sql, sql.transaction():
            await sql.execute("SET LOCAL session_replication_role = replica")
            await sql.execute(
                "UPDATE auth.sessions SET expires_at = now() WHERE workspace_id = $1", ids.tenant_uuid(owner.id)
            )
        body = {"refresh_token": owner.refresh_token}
        refused(await stack.http.post("/v1/auth/refresh", json=body), 401, "invalid_grant")
