"""How the database finds a person's role: by the key, however many memberships there are."""

import asyncpg

from causeloop_common import ids
from causeloop_dev.testing import Servers
from causeloop_tenancy import repository
from tests.support.plans import plan_of

MEMBERSHIPS = """
    INSERT INTO tenancy.workspaces (workspace_id, name, slug, timezone, created_by)
    SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'w', 'w', 'UTC', $1
    FROM generate_series(1, 2000) AS n
"""
MEMBERS = """
    INSERT INTO tenancy.members (workspace_id, person_id, role)
    SELECT workspace_id, $1, 'viewer' FROM tenancy.workspaces WHERE created_by = $1
"""


class TestRole:
    async def test_is_found_by_tenant_and_person(self, servers: Servers) -> None:
        """D16: a person in 2000 workspaces costs no more than one in a single workspace."""
        person = ids.decode(ids.realm("https://issuer.test", ids.new("sub")), "usr")
        superuser = await asyncpg.connect(servers.superuser_url)
        change = superuser.transaction()
        await change.start()
        try:
            await superuser.execute("SET LOCAL session_replication_role = replica")
            await superuser.execute(MEMBERSHIPS, person)
            await superuser.execute(MEMBERS, person)
            await superuser.execute("SET LOCAL session_replication_role = origin")
            await superuser.execute("ANALYZE tenancy.members")
            tenant = await superuser.fetchval("SELECT workspace_id FROM tenancy.members WHERE person_id = $1", person)
            sql = repository._ROLE.sql
            plan = await plan_of(superuser, "causeloop_tenancy", str(tenant), sql, f"'{person}'")
            assert [row["role"] for row in await superuser.fetch(sql, person)] == ["viewer"]
            (condition,) = [line for line in plan if "Index Cond" in line]
            assert "workspace_id = " in condition
            assert "person_id = " in condition
        finally:
            await change.rollback()
            await superuser.close()
