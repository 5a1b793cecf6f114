"""How the database finds one version of a secret: by the key, however many versions there are."""

import asyncpg
import pytest

from causeloop_common import ids
from causeloop_dev.testing import Servers
from causeloop_vault.repository import secrets
from tests.support.plans import plan_of

SECRET = """
    INSERT INTO vault.secrets (workspace_id, path, id, version) VALUES ($1, 'a', $2, 2000)
"""
VERSIONS = """
    INSERT INTO vault.secret_versions (workspace_id, path, version, sealed, created_by)
    SELECT $1, 'a', n, 'x', 'x' FROM generate_series(1, 2000) AS n
"""


class TestSecret:
    @pytest.mark.parametrize("version", ["NULL", "7"])
    async def test_is_revealed_without_a_look_at_its_other_versions(self, servers: Servers, version: str) -> None:
        superuser = await asyncpg.connect(servers.superuser_url)
        change = superuser.transaction()
        await change.start()
        try:
            tenant = ids.tenant_uuid(ids.new("ws"))
            await superuser.execute("SET LOCAL session_replication_role = replica")
            await superuser.execute(SECRET, tenant, ids.uuid7())
            await superuser.execute(VERSIONS, tenant)
            await superuser.execute("SET LOCAL session_replication_role = origin")
            await superuser.execute("ANALYZE vault.secrets, vault.secret_versions")
            plan = await plan_of(superuser, "causeloop_vault", str(tenant), secrets._SEALED.sql, "'a'", version)
            assert any("Index Cond" in line and "version = " in line for line in plan), "\n".join(plan)
        finally:
            await change.rollback()
            await superuser.close()
