"""Secrets are planted, everything is done with them, and then they are looked for wherever something stays.

Looked for in clear, in hex and in base64 of either alphabet at each of its three alignments, in: the logs of all
processes, refusals and lists, everything sent over the bus, metrics, traces and metrics as the collector got them, the
streams' files, the database's files (with the write-ahead log) and the audit entries. In every one of these places
something harmless is looked for as well, and must be found: a search that finds nothing would find no leak either.
"""

import asyncio
import base64
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson
import pytest

from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_dev.installation import Installation
from causeloop_vault.adapters.local_keys import LocalMasterKeys
from causeloop_vault.domain import envelope
from tests.security.wire import head, say
from tests.support.bus import through
from tests.support.collector import Collector
from tests.support.stack import Person, Stack, content_of, handle_tenant, until


class Search(NamedTuple):
    """What must not be found, by name, and what must."""

    planted: dict[str, bytes]
    harmless: bytes


class Remains(NamedTuple):
    """What was left behind, by place, and what was planted."""

    places: dict[str, Search]
    found_in: dict[str, bytes]


def forms(secret: bytes) -> set[bytes]:
    """A secret in clear and as it would look inside of something encoded."""
    made = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for offset in range(3):
        around = base64.b64encode(bytes(offset) + secret + bytes(3))
        inner = around[-(-offset * 8 // 6) : (offset + len(secret)) * 8 // 6]  # whole letters that the secret decides
        made |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return made


def leaks(search: Search, content: bytes) -> list[str]:
    return [name for name, secret in search.planted.items() if any(form in content for form in forms(secret))]


class Life:
    """Somebody who keeps secrets, uses them, makes every mistake with them, and what they were answered."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.planted: dict[str, bytes] = {}
        self.refusals: list[bytes] = []

    def canary(self, name: str) -> str:
        """A new secret."""
        word = f"canary.{secrets.token_hex(16)}"
        self.keep(name, word)
        return word

    def keep(self, name: str, secret: str | bytes) -> None:
        self.planted[name] = secret.encode() if isinstance(secret, str) else secret

    def note(self, answer: httpx.Response, status: int) -> Any:
        """An answer that shows no secret."""
        assert answer.status_code == status, answer.text
        self.refusals.append(repr(answer.headers.raw).encode() + answer.content)
        return answer.json() if answer.content else None

    async def live(self) -> Person:
        """Do everything that handles a secret."""
        stack = self.stack
        person = Person(stack, f"user_{secrets.token_hex(4)}", headers={"user-agent": self.canary("user agent")})
        subject_token = await stack.session(person.subject, email=f"{self.canary('e-mail')}@example.test")
        self.keep("subject token", subject_token)
        body = {"subject_token": subject_token}
        granted = content_of(await stack.http.post("/v1/auth/exchange", json=body, headers=person.headers))
        person.realm_token, person.refresh_token = granted["access_token"], granted["refresh_token"]
        person.id = handle_tenant(person.refresh_token)
        self.keep("access token of the realm", person.realm_token)
        self.keep("first refresh token", person.refresh_token)
        await person.create_workspace()
        self.keep("access token", person.token)
        self.keep("second refresh token", person.refresh_token)
        first = content_of(await stack.http.post("/v1/auth/refresh", json={"refresh_token": person.refresh_token}))
        self.keep("third refresh token", first["refresh_token"])

        key = {"idempotency-key": secrets.token_hex(8)}
        made = content_of(
            await person.post("/api-tokens", json={"name": "n", "scopes": ["secrets:reveal"]}, headers=key), 201
        )
        self.keep("personal access token", made["token"])
        self.note(await person.post("/api-tokens", json={"name": "n", "scopes": ["secrets:reveal"]}, headers=key), 409)
        self.note(await person.get("/api-tokens"), 200)

        value = self.canary("secret value")
        put = {"json": {"value": value}, "headers": {"idempotency-key": secrets.token_hex(8)}}
        for _ in range(2):
            self.note(await person.put("/secrets/leak/value", **put), 200)
        other = {**put, "json": {"value": self.canary("value of a mismatch")}}
        self.note(await person.put("/secrets/leak/value", **other), 422)
        assert content_of(await person.post("/secrets/leak/value/reveal"))["value"] == value
        revealed = await person.post("/secrets/leak/value/reveal", token=made["token"])
        assert content_of(revealed)["value"] == value
        self.note(await person.get("/secrets/leak/value"), 200)
        self.note(await person.get("/secrets"), 200)
        long = self.canary("long secret value") * 1000
        self.note(await person.put("/secrets/leak/long", json={"value": long}), 200)
        content_of(await person.post("/secrets/leak/long/reveal"))

        content_of(await person.post("/keys", json={"name": "leak-key", "type": "aes256-gcm"}), 201)
        one, many = self.canary("plaintext"), [self.canary(f"plaintext {number}") for number in range(3)]
        plain = [base64.b64encode(text.encode()).decode() for text in (one, *many)]
        content_of(await person.post("/keys/leak-key/encrypt", json={"plaintext": plain[0]}))
        sealed = content_of(
            await person.post("/keys/leak-key/encrypt", json={"items": [{"plaintext": p} for p in plain]})
        )
        back = [{"ciphertext": result["ciphertext"]} for result in sealed["results"]]
        assert content_of(await person.post("/keys/leak-key/decrypt", json=back[0])) == {"plaintext": plain[0]}
        shown = content_of(await person.post("/keys/leak-key/decrypt", json={"items": back}))
        assert [result["plaintext"] for result in shown["results"]] == plain

        await self._make_mistakes(person)
        await self._meet_faults(person)
        self.note(await person.delete(f"/api-tokens/{made['id']}"), 204)
        self.note(await person.post("/auth/logout"), 204)
        return person

    async def _make_mistakes(self, person: Person) -> None:
        stack = self.stack

        async def put(name: str, status: int, form: str, **more: Any) -> None:
            content = form.replace("CANARY", self.canary(name)).encode()
            self.note(await person.put("/secrets/leak/value", content=content, **more), status)

        await put("value of a conflict", 409, '{"value":"CANARY","version":7}')
        await put("value beside an unknown field", 422, '{"value":"CANARY","more":"CANARY"}')
        await put("value of a wrong type", 422, '{"value":["CANARY"]}')
        await put("value in a wrong field", 422, '{"value":"v","version":"CANARY"}')
        await put("value too long", 422, '{"value":"' + "CANARY" * 2000 + '"}')
        await put("value in broken JSON", 400, '{"value":"CANARY"')
        await put("value in a list", 400, '["CANARY"]')
        await put("value of another type of body", 415, "CANARY", headers={"content-type": "text/plain"})
        await put("value of a bad key", 400, '{"value":"CANARY"}', headers={"idempotency-key": "with space"})
        await put("value without a right", 403, '{"value":"CANARY"}', token=person.realm_token)
        await put("value of nobody", 401, '{"value":"CANARY"}', token="nobody")
        for name, form in {
            "plaintext that is no base64": '{"plaintext":"CANARY"}',
            "plaintext in both forms": '{"plaintext":"CANARY","items":[{"plaintext":""}]}',
            "plaintext in a wrong item": '{"items":[{"plaintext":"CANARY"},{"plaintext":5}]}',
            "plaintext as a text of items": '{"items":"CANARY"}',
        }.items():
            content = form.replace("CANARY", self.canary(name)).encode()
            self.note(await person.post("/keys/leak-key/encrypt", content=content), 422)
        for name, token in {
            "credential of nobody": self.canary("credential of nobody"),
            "credential that looks like ours": f"clp_pat_{person.workspace}_{self.canary('look-alike')}_00000000",
        }.items():
            self.note(await person.get("/secrets", token=token), 401)
            self.keep(name, token)
        self.note(await person.get(f"/secrets?cursor={self.canary('cursor')}"), 400)
        self.note(await person.get(f"/secrets?limit={self.canary('limit')}"), 422)
        for status, body in {
            401: {"subject_token": self.canary("subject token of nobody")},
            422: {"subject_token": self.canary("subject token beside a field"), "more": 1},
        }.items():
            self.note(await stack.http.post("/v1/auth/exchange", json=body), status)
        body = {"refresh_token": self.canary("refresh token of nobody")}
        self.note(await stack.http.post("/v1/auth/refresh", json=body), 401)
        thief = Person(stack, person.subject)
        await thief.sign_in()
        reused = {"refresh_token": thief.refresh_token}
        self.keep("refresh token that is reused", thief.refresh_token)
        newer = content_of(await stack.http.post("/v1/auth/refresh", json=reused))["refresh_token"]
        content_of(await stack.http.post("/v1/auth/refresh", json={"refresh_token": newer}))
        self.note(await stack.http.post("/v1/auth/refresh", json=reused), 401)
        large = self.canary("value of a large body").encode() * 40_000
        for more in ({"Content_Length": str(len(large))}, {"X_Secret": large[:40_000]}):
            request = head("PUT", "/v1/secrets/leak/value", Authorization=f"Bearer {person.token}", **more)
            answer = await say(stack.port, request, large)
            assert answer.status in (413, 431)
            self.refusals.append(answer.body)

    async def _meet_faults(self, person: Person) -> None:
        """The database fails in the middle of a write, and what was stored no longer opens."""
        stack = self.stack
        tenant = ids.tenant_uuid(person.workspace)
        async with stack.sql() as sql:
            async with sql.transaction():
                await sql.execute("SELECT 1 FROM vault.secrets WHERE workspace_id = $1 FOR UPDATE", tenant)
                body = {"value": self.canary("value that met a fault")}
                writing = asyncio.create_task(person.put("/secrets/leak/value", json=body))
                waits = (
                    "SELECT pid FROM pg_stat_activity "
                    "WHERE usename = 'causeloop_vault' AND wait_event_type = 'Lock' LIMIT 1"
                )
                pid = await until("the write waits", lambda: sql.fetchval(waits))
                await sql.execute("SELECT pg_terminate_backend($1)", pid)
                self.note(await writing, 503)
            body = {"value": self.canary("value that no longer opens")}
            content_of(await person.put("/secrets/leak/broken", json=body))
            async with sql.transaction():
                await sql.execute("SET LOCAL session_replication_role = replica")
                await sql.execute(
                    "UPDATE vault.secret_versions SET version = version + 1 WHERE workspace_id = $1 AND path = $2",
                    tenant,
                    "leak/broken",
                )
                await sql.execute(
                    "UPDATE vault.secrets SET version = version + 1 WHERE workspace_id = $1 AND path = $2",
                    tenant,
                    "leak/broken",
                )
        self.note(await person.post("/secrets/leak/broken/reveal"), 500)


def installed(stack: Stack) -> Iterator[tuple[str, bytes]]:
    """The installation's own secrets, as text and as bytes."""
    installation: Installation = stack.installation
    yield "root secret", installation.jwt_secret.encode()
    yield "master key, as text", installation.master_key.encode()
    yield "master key", base64.b64decode(installation.master_key)
    for name, seed in installation.seeds.items():
        yield f"nkey seed of {name}", seed.encode()
    for service in topology.SERVICES:
        for name, key in stack.keys(service).items():
            yield f"key {name} of {service}", key
        for variable, url in stack.environ[service].items():
            if variable.startswith("DATABASE_URL"):
                yield f"password in {variable}", url.split(":")[2].split("@")[0].encode()
    yield "password of the superuser", stack.postgres.superuser_url.split(":")[2].split("@")[0].encode()


async def data_keys(stack: Stack, tenant: str) -> dict[str, bytes]:
    """A tenant's data keys and named keys, opened with the master key as the vault does."""
    master = LocalMasterKeys([base64.b64decode(stack.installation.master_key)])
    async with stack.sql() as sql:
        rows = await sql.fetch("SELECT * FROM vault.keyrings WHERE workspace_id = $1", ids.tenant_uuid(tenant))
        keys = {
            row["version"]: await master.unwrap(row["wrapped"], row["master"], tenant, row["version"]) for row in rows
        }
        rows = await sql.fetch("SELECT * FROM vault.keys WHERE workspace_id = $1", ids.tenant_uuid(tenant))
    assert keys
    named = {}
    for row in rows:
        key_id = ids.encode("key", row["id"])
        version = envelope.version_of(row["sealed"])
        at = envelope.place(tenant, "key", f"{key_id}@{row['version']}", version)
        named[f"named key {key_id}"] = envelope.open_(keys[version], row["sealed"], at)
    return {f"data key {version} of {tenant}": key for version, key in keys.items()} | named


def files(folder: Path) -> bytes:
    """Everything in a folder, equal files once, long runs of zeros short; what a server removes meanwhile is gone."""
    content: dict[bytes, None] = {}
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file():
                content[re.sub(rb"\0{64,}", bytes(64), path.read_bytes())] = None
        except FileNotFoundError:
            continue
    return b"\0".join(content)


@pytest.fixture(scope="module")
async def remains(stack: Stack, collector: Collector) -> Remains:
    """All that is left after a life with secrets."""
    life = Life(stack)
    async with stack.on_bus(None, pending_size=64 * 2**20) as observer:
        everything = await observer.subscribe(">", pending_bytes_limit=256 * 2**20, pending_msgs_limit=1_000_000)
        await through(observer)
        person = await life.live()
        last = b"auth.session_ended"
        heard: list[bytes] = []

        async def all_said() -> bool:
            await through(observer)
            while everything.pending_msgs:
                message = await everything.next_msg(1)
                heard.append(b"\n".join((message.subject.encode(), repr(message.headers).encode(), message.data)))
            return any(last in received for received in heard[-50:])

        await until("the last event was received", all_said)

    async def all_traced() -> bool:
        mine = [span for span in collector.spans if span.attributes.get("causeloop.tenant") in (person.id, workspace)]
        last = {("POST /v1/auth/logout", None), ("audit.append", "auth.session_ended")}
        return last <= {(span.name, span.attributes.get("causeloop.action")) for span in mine}

    workspace = person.workspace
    await until("the last trace was exported", all_traced)

    async def all_measured() -> bool:
        return "/v1/auth/logout" in {one.labels.get("route") for one in collector.metrics}

    await until("the last command was measured", all_measured)

    planted = dict(life.planted)
    planted |= dict(installed(stack))
    for tenant in (person.workspace, person.id):
        planted |= await data_keys(stack, tenant)
    metrics = "\n".join([await stack.metrics(service) for service in topology.SERVICES]).encode()
    async with stack.sql() as sql:
        await sql.execute("CHECKPOINT")
        entries = await sql.fetch("SELECT e::text AS entry FROM audit.entries e")
    logs = {name: stack.raw_log(name) for name in (*stack.processes,)}
    logs["postgres"], logs["nats"] = stack.postgres.log.read_bytes(), stack.nats.log.read_bytes()
    found_in = {
        "the logs": b"\n".join(logs.values()),
        "refusals and lists": b"\n".join(life.refusals),
        "the bus": b"\n".join(heard),
        "metrics": metrics,
        "the traces": b"\n".join(collector.raw["/v1/traces"]),
        "metrics by OTLP": b"\n".join(collector.raw["/v1/metrics"]),
        "the streams' files": files(stack.nats.home / "jetstream"),
        "the database's files": files(stack.postgres.home / "cluster"),
        "the audit entries": b"\n".join(entry["entry"].encode() for entry in entries),
    }
    harmless = {
        "the logs": workspace.encode(),
        "refusals and lists": b"leak/value",
        "the bus": b"leak/value",
        "metrics": b"cmd.vault.put_secret",
        "the traces": workspace.encode(),
        "metrics by OTLP": b"cmd.vault.put_secret",
        "the streams' files": workspace.encode(),
        "the database's files": b"leak/value",
        "the audit entries": workspace.encode(),
    }
    # What an answer shows once is not looked for in it; the answers kept here show nothing.
    return Remains({place: Search(planted, harmless[place]) for place in found_in}, found_in)


class TestNoSecretIsFound:
    @pytest.mark.parametrize(
        "place",
        [
            "the logs", "refusals and lists", "the bus", "metrics", "the traces", "metrics by OTLP",
            "the streams' files", "the database's files", "the audit entries",
        ],
    )  # fmt: skip
    async def test_in(self, remains: Remains, place: str, tell: Callable[[str], None]) -> None:
        search, content = remains.places[place], remains.found_in[place]
        assert search.harmless in content, f"the search of {place} is blind"
        assert leaks(search, content) == []
        tell(f"leaks: {len(search.planted)} secrets, none in {place} ({len(content) / 2**20:.1f} MiB)")

    async def test_though_every_form_would_be_found(self) -> None:
        word = b"canary." + secrets.token_hex(16).encode()
        search = Search({"word": word}, b"")
        for before in (b"", b"a", b"ab", b"abc", b"abcd"):
            for after in (b"", b"x", b"xy", b"xyz"):
                around = before + word + after
                urlsafe = base64.urlsafe_b64encode(around)
                for hidden in (
                    around,
                    around.hex().encode(),
                    base64.b64encode(around),
                    urlsafe,
                    orjson.dumps(around.decode()),
                ):
                    assert leaks(search, b"..." + hidden + b"...") == ["word"], (before, after)
        assert leaks(search, secrets.token_bytes(2**20)) == []
