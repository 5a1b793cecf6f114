"""Two tenants: `a` has something in every table, `b` as well, and tries to get at what is a's.

    tenants.naming(operation, field)     a value for a field that names a thing of a's, where the field can name one
    tenants.requests(operation, …)       the requests that an operation's fields allow: required ones, each option, all

A field that is not known here fails the test that meets it: its author decides what of a's it could name.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.permissions import Permission
from causeloop_log.tlog.merkle import EMPTY_ROOT
from tests.support.stack import Person, Stack, content_of, until

EVERYTHING = tuple(permission for permission in Permission if permission != Permission.WORKSPACE_CREATE)

RELAYS = ["published_at", "stream_seq", "digest", "confirmed_batch", "attempts"]
"""The columns of an outbox that the relay updates."""


@dataclass
class Things:
    """What one tenant has, by what it is."""

    person: Person
    session: str
    path: str
    secret: str
    key: dict[str, Any]
    ciphertext: str
    token: dict[str, Any]
    events: list[str]
    cursors: dict[str, str]
    jobs: dict[str, str]
    words: list[str] = field(default_factory=list)

    def marks(self) -> set[str]:
        """Texts that would give this tenant away in an answer to somebody else."""
        return {
            self.person.id, self.person.workspace, self.session, self.path, self.secret, self.token["id"],
            self.key["id"], self.key["name"], self.ciphertext,
            *self.events, *self.jobs.values(), *self.words,
        }  # fmt: skip

    def tenants(self) -> list[Any]:
        """The values of `workspace_id` that are this person's: the workspace and the realm."""
        return [ids.tenant_uuid(self.person.workspace), ids.tenant_uuid(self.person.id)]


@dataclass
class Tenants:
    """Both of them."""

    stack: Stack
    a: Things
    b: Things

    async def naming(self, operation: str, name: str) -> Any:
        """A value for a field of an operation: a thing of a's, or something of b's own where the field is no name."""
        a, stack = self.a, self.stack
        thing = {
            ("revoke_api_token", "id"): a.token["id"],
            ("get_event", "id"): a.events[-1],
            ("get_job", "id"): a.jobs["vault"],
            ("cancel_job", "id"): a.jobs["vault"],
            ("list_jobs", "position"): ids.encode("job", ids.MAX),
            ("get_event_proof", "id"): a.events[-1],
            ("list_secrets", "position"): a.path[:-1],
            ("list_keys", "position"): a.key["name"][:-1],
            ("create_key", "name"): a.key["name"],
            ("encrypt", "name"): a.key["name"],
            ("decrypt", "name"): a.key["name"],
            ("encrypt", "items"): [{"plaintext": "b2YgYg==", "context": {"of": "a"}}],
            ("decrypt", "items"): [{"ciphertext": a.ciphertext, "context": {"of": "a"}}],
            ("list_events", "position"): "0",
            ("list_events", "wait_for"): a.events[-1],
            ("list_api_tokens", "position"): ids.encode("tok", ids.MAX),
            ("list_my_workspaces", "position"): ids.encode("ws", ids.NIL),
            ("authenticate", "token"): a.person.token[:-2] + "zz",
        }.get((operation, name))
        if thing is not None:
            return thing
        known: dict[str, Any] = {
            "path": a.path,
            "workspace_id": a.person.workspace,
            "principal": a.person.id,
            "actor": a.person.id,
            "target": a.secret,
            "action": "vault.",
            "record": a.session,
            "cursor": a.cursors.get(operation, a.cursors["list_secrets"]),
            "since": "2000-01-01T00:00:00Z",
            "until": "2100-01-01T00:00:00Z",
            "order": "index",
            "limit": 100,
            "start": 0,
            "from": 0,
            "max_bytes": 100_000,
            "version": {"put_secret": 0}.get(operation, 1),
            "name": "b's",
            "slug": "b",
            "timezone": "UTC",
            "scopes": ["secrets:read"],
            "expires_in_days": 1,
            "value": "of b",
            "address": "192.0.2.1",
            "device": "of b",
            "purpose": "session",
            "plaintext": "b2YgYg==",
            "ciphertext": a.ciphertext,
            "context": {"of": "a"},
            "type": "aes256-gcm",
            "to": 1,
            "logs": [
                {"tenant": a.person.workspace, "old_size": 0, "size": 0, "root": EMPTY_ROOT.hex(), "proof": []},
            ],
        }
        if name == "subject_token":
            return await stack.session(self.b.person.subject)
        if name == "refresh_token":
            return content_of(await stack.exchange(self.b.person.subject))["refresh_token"]
        if name not in known:
            raise AssertionError(f"Say in {__name__} what the field '{name}' of '{operation}' could name of a's.")
        return known[name]

    async def requests(self, operation: str, required: Iterable[str], optional: Iterable[str]) -> list[dict[str, Any]]:
        """Fields with a's things: the required ones alone, with each option, and all of them."""
        needed, more = list(required), list(optional)
        chosen = [needed, *([*needed, option] for option in more)]
        if len(more) > 1:
            chosen.append([*needed, *more])
        return [{name: await self.naming(operation, name) for name in names} for names in chosen]

    def nothing_of_a(self, answer: str, asked: str) -> bool:
        """Whether an answer shows nothing of a's that the request did not have itself."""
        return not [mark for mark in self.a.marks() if mark in answer and mark not in asked]

    async def footprint(self) -> dict[str, Any]:
        """A digest of all rows of a's, in every table, without what the relay notes of an event's way to the log."""
        async with self.stack.sql() as sql:
            return {
                table: await sql.fetchval(
                    "SELECT md5(coalesce(string_agg(row, '' ORDER BY row), '')) "
                    f"FROM (SELECT (to_jsonb(t) - $2::text[])::text AS row FROM {table} t "
                    "WHERE workspace_id = ANY($1)) AS rows",
                    self.a.tenants(),
                    RELAYS if table.endswith(".outbox") else [],
                )
                for table in await tenant_tables(sql)
            }


async def settle(stack: Stack) -> Tenants:
    """Two new tenants; what they did has arrived in their logs."""
    return Tenants(stack, await _furnish(stack, "alpha"), await _furnish(stack, "beta"))


async def _furnish(stack: Stack, name: str) -> Things:
    person = await stack.sign_up(workspace=False)
    key = {"idempotency-key": f"key-of-{name}"}
    body = {"name": f"Workspace {name}", "slug": f"slug-{name}"}
    made = content_of(await person.post("/workspaces", json=body, headers=key), 201)
    await person.move(made["id"])
    path = f"{name}/db/password"
    secret: dict[str, Any] = {}
    for value in (f"value-of-{name}", f"second-of-{name}"):
        secret = content_of(
            await person.put(f"/secrets/{path}", json={"value": value}, headers={"idempotency-key": value})
        )
    content_of(await person.put(f"/secrets/{name}/other", json={"value": f"other-of-{name}"}))
    content_of(await person.post(f"/secrets/{path}/reveal"))
    keys = [
        content_of(await person.post("/keys", json={"name": f"key-of-{name}{more}", "type": "aes256-gcm"}), 201)
        for more in ("", "-2")
    ]
    encrypted = {"plaintext": "b2YgYQ==", "context": {"of": "a"}}
    ciphertext = content_of(await person.post(f"/keys/{keys[0]['name']}/encrypt", json=encrypted))["ciphertext"]
    scopes = [str(permission) for permission in EVERYTHING]
    tokens = [
        content_of(
            await person.post("/api-tokens", json={"name": f"token-of-{name}", "scopes": scopes}, headers=key), 201
        )
    ]
    tokens.append(await person.personal_token("secrets:read", name=f"second-token-of-{name}"))
    entries = await person.log(least=9)
    cursors = {}
    for operation, list_path in {
        "list_secrets": "/secrets",
        "list_keys": "/keys",
        "list_api_tokens": "/api-tokens",
        "list_events": "/audit/events",
    }.items():
        cursors[operation] = content_of(await person.get(f"{list_path}?limit=1"))["page"]["next_cursor"]

    async def realm_settled() -> bool:
        async with stack.sql() as sql:
            waiting = [
                await sql.fetchval(
                    f"SELECT count(*) FROM {schema}.outbox WHERE workspace_id = $1 AND published_at IS NULL",
                    ids.tenant_uuid(person.id),
                )
                for schema in topology.OWNERS
            ]
            entered = await sql.fetchval(
                "SELECT size FROM audit.heads WHERE workspace_id = $1", ids.tenant_uuid(person.id)
            )
            return not any(waiting) and entered == 4

    await until("the realm's events have arrived", realm_settled)
    await until("both logs are signed", partial(_signed, stack, person))
    async with stack.sql() as sql:
        jobs = await _plant(sql, person)
        session = await sql.fetchval("SELECT id FROM auth.sessions WHERE workspace_id = $1", ids.tenant_uuid(person.id))
    words = [
        f"value-of-{name}", f"second-of-{name}", f"other-of-{name}", f"Workspace {name}", f"slug-{name}",
        f"token-of-{name}", person.token, person.refresh_token, tokens[0]["token"],
    ]  # fmt: skip
    return Things(
        person, ids.encode("ses", session), path, secret["id"], keys[0], ciphertext, tokens[0],
        [entry["id"] for entry in entries], cursors, jobs, words,
    )  # fmt: skip


async def _signed(stack: Stack, person: Person) -> bool:
    """Whether the heads of workspace and realm have their checkpoints, which nothing moves from then on."""
    async with stack.sql() as sql:
        signed = await sql.fetchval(
            "SELECT count(*) FROM audit.heads JOIN audit.checkpoints USING (workspace_id, size) "
            "WHERE workspace_id = ANY($1)",
            [ids.tenant_uuid(person.workspace), ids.tenant_uuid(person.id)],
        )
    return bool(signed == 2)


async def _plant(sql: Any, person: Person) -> dict[str, str]:
    """Rows that a small tenant has no occasion to make: a node of 256 entries, a refusal, an epoch's end, a signing
    key, an event of audit's.

    And a job in each service; returns their ids by service. They have ended, so that no worker changes them.
    """
    workspace = ids.tenant_uuid(person.workspace)
    event = """
        INSERT INTO audit.outbox (workspace_id, event_id, type, occurred_at, data, actor, target, request_id,
                                  traceparent, published_at)
        VALUES ($1, $2, 'audit.planted', now(), '{}', $3, $3, '', '', now())
    """
    done = "INSERT INTO audit.idempotency VALUES ($1, $2, 'plant', 'key', 'print', '{}')"
    planted = "INSERT INTO vault.signing_keys VALUES ($1, 1, $2, 'sealed', 'planted.example')"
    async with sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")  # the commit guard would refuse it
        await sql.execute("INSERT INTO audit.nodes VALUES ($1, 1, 0, $2)", workspace, EMPTY_ROOT)
        await sql.execute(
            "INSERT INTO audit.held (workspace_id, service, event_id, subject, headers, data, until) "
            "VALUES ($1, 'vault', $2, 'evt', '{}', '', 'infinity')",
            workspace,
            ids.uuid7(),
        )
        refused = "INSERT INTO audit.refused (workspace_id, size, entries, why) VALUES ($1, 1000000, 0, 'planted')"
        await sql.execute(refused, ids.tenant_uuid(person.id))  # nobody reads the log of a realm
        await sql.execute("INSERT INTO vault.epochs VALUES ($1, 1, 1, $2, 'planted')", workspace, EMPTY_ROOT)
        await sql.execute(planted, workspace, EMPTY_ROOT)
        await sql.execute(event, workspace, ids.uuid7(), person.id)
        await sql.execute(done, workspace, person.id)
        made = {}
        for service in ("auth", "tenancy", "vault", "audit"):
            job = ids.uuid7()
            await sql.execute(
                f"INSERT INTO {service}.jobs (workspace_id, id, kind, payload, principal, request_id, traceparent, "
                "due_at, outcome, expires_at) "
                "VALUES ($1, $2, 'reencrypt_keyring', '{}', $3, '', '', NULL, 'done', now() + interval '7 days')",
                workspace,
                job,
                person.id,
            )
            made[service] = ids.encode(f"job_{service}", job)
        return made


async def tenant_tables(sql: Any) -> list[str]:
    """Every table with a tenant's rows, partitions apart."""
    rows = await sql.fetch(
        """
        SELECT n.nspname || '.' || c.relname AS name FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attname = 'workspace_id' AND NOT a.attisdropped
        ORDER BY 1
        """
    )
    return [row["name"] for row in rows]


def operations(openapi: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation of an OpenAPI document: method, path, description."""
    for path, described in openapi["paths"].items():
        for method, operation in described.items():
            yield method.upper(), path, operation


def makes_its_own(operation: str) -> bool:
    """Whether an operation makes, under a name of a's, something that is b's own: to be tried after all others."""
    return operation.startswith(("put_", "create_", "store_", "rotate_"))
