"""An event that the vault cannot handle: nothing else waits for it, and an operator gives it back once it is mended."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.tenancy import WorkspaceCreated
from causeloop_common.contracts.topology import VAULT_EVENTS
from causeloop_common.messaging import event_headers
from tests.support.stack import Stack, until

pytestmark = pytest.mark.slow


@pytest.fixture
async def unlucky(stack: Stack) -> AsyncIterator[str]:
    """A workspace whose keyring the database does not take, until the trigger is dropped."""
    tenant = ids.new("ws")
    refuse = f"""
        CREATE FUNCTION vault.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON vault.keyrings FOR EACH ROW
            WHEN (NEW.workspace_id = '{ids.tenant_uuid(tenant)}') EXECUTE FUNCTION vault.refuse();
    """
    async with stack.sql() as sql:
        await sql.execute(refuse)
        yield tenant
        await sql.execute("DROP FUNCTION vault.refuse CASCADE")
    async with stack.on_bus(topology.OPERATOR) as operator:
        await operator.jetstream().purge_stream(topology.DEAD.name, subject=f"dead.vault.{VAULT_EVENTS.name}.>")


async def dead(stack: Stack, *arguments: str) -> str:
    """What `causeloop dead` prints to the operator."""
    seed = stack.installation.seeds[topology.OPERATOR]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "causeloop_cli", "dead", *arguments,
        env={**os.environ, "NATS_URL": stack.nats.url, "NATS_NKEY_SEED_OPERATOR": seed},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def test_a_dead_letter_holds_nobody_up_and_is_handled_once_it_is_redriven(stack: Stack, unlucky: str) -> None:
    async def claims() -> Any:
        query = "SELECT count(*) FROM vault.inbox WHERE workspace_id = $1"
        async with stack.sql() as sql:
            return await sql.fetchval(query, ids.tenant_uuid(unlucky))

    event = Announced(
        ids.new("evt"), unlucky, WorkspaceCreated.type, datetime.now(UTC),
        WorkspaceCreated(workspace_id=unlucky).to_json(), actor="svc_test", target=unlucky, request_id=ids.new("req"),
    )  # fmt: skip
    async with stack.bus_of("tenancy") as bus:
        subject = f"evt.{unlucky}.{event.type}"
        await bus.jetstream().publish(subject, event.data, headers=event_headers(event))
    await stack.sign_up()  # its keyring is prepared meanwhile

    async def buried() -> str | None:
        listed = await dead(stack, "list")
        return next((line for line in listed.splitlines() if unlucky in line), None)

    line = await until("there is a dead letter", buried, every=0.5) or ""
    assert line.split("  ")[2:] == ["vault_events", event.type, unlucky, "RaiseError"]
    assert (await stack.readiness("vault"))["checks"]["vault.vault_events"] == "ok"  # isolation fails: the trigger
    assert await claims() == 0
    async with stack.sql() as sql:
        await sql.execute("DROP TRIGGER refuse ON vault.keyrings")

    number = line.split("  ")[0]
    assert (await dead(stack, "redrive", number)).startswith(f"{number}: given back to vault_events\n")

    await until("it is handled", claims)
    assert unlucky not in await dead(stack, "list")
