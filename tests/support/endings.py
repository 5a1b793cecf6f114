"""Acts that end a membership or a tenant's data key. No use case does so yet: the rows are changed past the commit
guard, and the owner's own credential announces the event, as its use case will.
"""

from datetime import UTC, datetime
from functools import partial

from causeloop_common import ids
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.base import Event
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.contracts.vault import KeyringRotated
from causeloop_common.messaging import Bus
from tests.support.poller import outlived
from tests.support.stack import Person, content_of


async def end_membership(tenancy: Bus, person: Person) -> None:
    """The only member of the workspace is none any more; returns when the server has the event."""
    await _change(person, "DELETE FROM tenancy.members WHERE workspace_id = $1")
    await announce(tenancy, MemberAdded, person.workspace, person.id)


async def data_key_outlived(vault: Bus, person: Person, rate: float) -> float:
    """Seconds from the end of a workspace's data key to the last reveal of a secret by any replica of the vault; 0 when
    there was none. NATS chooses the replica for each request: so many before, that each has had some.
    """
    content_of(await person.put("/secrets/a", json={"value": "a"}))
    return await outlived(
        [person.stack.port],
        person.token,
        rate,
        partial(end_data_key, vault, person),
        call="POST /v1/secrets/a/reveal",
        least=60,
        refused=500,
    )


async def end_data_key(vault: Bus, person: Person) -> None:
    """The workspace's data key opens no more; returns when the server has the event."""
    await _change(person, "UPDATE vault.keyrings SET master = 'gone' WHERE workspace_id = $1")
    await announce(vault, KeyringRotated, person.workspace, person.workspace)


async def _change(person: Person, statement: str) -> None:
    async with person.stack.sql() as sql, sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        changed: str = await sql.execute(statement, ids.tenant_uuid(person.workspace))
    assert changed.endswith(" 1")


async def announce(bus: Bus, kind: type[Event], tenant: str, target: str) -> None:
    """Publish an event as it is published before its act is answered."""
    event = Announced(ids.new("evt"), tenant, kind.type, datetime.now(UTC), b"{}", actor="svc_test", target=target)
    await bus.publish(event)
    await bus.client.flush()
