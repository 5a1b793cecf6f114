"""The reference path: the same work in the least code, to measure ours against.

Raw ASGI on the same HTTP server, nats-py with the same credentials, asyncpg on the same tables, roles, row security
and durability. The same checks and the same cryptography: the bearer token is known, the service token verified
once and remembered, the secret sealed on the bus and at rest. No framework, no validation beyond JSON, no routing, no
metrics, no logs, no relay.

    python reference.py gateway|service   with one JSON object on standard input
"""

import asyncio
import base64
import hashlib
import json
import os
import sys
import time
import uuid
from typing import Any

import asyncpg
import jwt
import nats
import orjson
import uvicorn
import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY = hashlib.sha256(b"reference").digest()
BUS = AESGCM(hashlib.sha256(b"reference bus").digest())
DEK = hashlib.sha256(b"reference data key").digest()

READ = """
    SELECT id, path, version, created_at, updated_at FROM vault.secrets WHERE path = $1
"""
WRITE = """
    INSERT INTO vault.secrets (path, id, version) VALUES ($1, $2, 1)
    ON CONFLICT (workspace_id, path) DO UPDATE SET version = secrets.version + 1, updated_at = now()
    RETURNING id, path, version, created_at, updated_at
"""
ADD_VERSION = "INSERT INTO vault.secret_versions (path, version, sealed, created_by) VALUES ($1, $2, $3, $4)"
REVEAL = """
    SELECT s.id, s.path, v.version, v.sealed FROM vault.secrets s
    JOIN vault.secret_versions v ON v.workspace_id = s.workspace_id AND v.path = s.path
    WHERE s.path = $1 AND v.version = s.version
"""
OUTBOX = """
    INSERT INTO vault.outbox (event_id, type, target, actor, credential, request_id, traceparent, occurred_at, data)
    VALUES ($1, $2, $3, $4, $5, $6, $7, now(), $8)
"""


def derive(salt: bytes) -> tuple[bytes, bytes]:
    """Message key and commitment."""
    material = HKDF(algorithm=SHA256(), length=64, salt=salt, info=b"reference").derive(DEK)
    return material[:32], material[32:]


async def gateway(house: dict[str, Any]) -> None:
    """HTTP in, NATS out."""
    client = await nats.connect(house["nats_url"], nkeys_seed_str=house["seed"], inbox_prefix="_INBOX.gateway.vault")
    claims = {"iss": "gateway", "aud": "vault", "ten": house["tenant"], "exp": int(time.time()) + 3600}
    token = jwt.encode(claims, KEY, algorithm="HS256")
    known = {hashlib.sha256(house["token"].encode()).digest(): token}
    subjects = {
        "GET": "cmd.vault.reference.get",
        "PUT": "cmd.vault.reference.put",
        "POST": "cmd.vault.reference.reveal",
    }

    async def respond(send: Any, content: bytes) -> None:
        length = str(len(content)).encode()
        kinds = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": kinds})
        await send({"type": "http.response.body", "body": content})

    async def encrypt(scope: Any, receive: Any, send: Any, service_token: str) -> None:
        body = orjson.loads((await receive())["body"])
        nonce = os.urandom(12)
        sealed = base64.b64encode(nonce + BUS.encrypt(nonce, body["plaintext"].encode(), b"")).decode()
        reply = await client.request(
            "cmd.vault.reference.encrypt",
            orjson.dumps({"name": scope["path"][9:-8], "plaintext": sealed}),
            timeout=5,
            headers={"Token": service_token, "Deadline": str(time.time() + 5), "Request-Id": uuid.uuid4().hex},
        )
        await respond(send, reply.data)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        service_token = known[hashlib.sha256(headers[b"authorization"][7:]).digest()]
        if scope["path"].startswith("/v1/keys/"):
            await encrypt(scope, receive, send, service_token)
            return
        method = scope["method"]
        request = {"path": scope["path"].removeprefix("/v1/secrets/").removesuffix("/reveal")}
        if method == "PUT":
            body = orjson.loads((await receive())["body"])
            nonce = os.urandom(12)
            sealed = BUS.encrypt(nonce, body["value"].encode(), b"")
            request["value"] = base64.b64encode(nonce + sealed).decode()
        reply = await client.request(
            subjects[method],
            orjson.dumps(request),
            timeout=5,
            headers={"Token": service_token, "Deadline": str(time.time() + 5), "Request-Id": uuid.uuid4().hex},
        )
        content = reply.data
        if method == "POST":
            answer = orjson.loads(content)
            raw = base64.b64decode(answer["value"])
            answer["value"] = BUS.decrypt(raw[:12], raw[12:], b"").decode()
            content = orjson.dumps(answer)
        await respond(send, content)

    config = uvicorn.Config(
        app, host="127.0.0.1", port=house["port"], log_config=None, access_log=False, lifespan="off", http="httptools",
        date_header=False, server_header=False, ws="none",
    )  # fmt: skip
    await uvicorn.Server(config).serve()


class Bare(asyncpg.Connection):
    """Without the pool's reset query, since every setting is local to its transaction."""

    __slots__ = ()

    def get_reset_query(self) -> str:
        return ""


async def service(house: dict[str, Any]) -> None:
    """NATS in, PostgreSQL, NATS out."""
    client = await nats.connect(house["nats_url"], nkeys_seed_str=house["seed"], inbox_prefix="_INBOX.vault")
    pool = await asyncpg.create_pool(house["dsn"], min_size=8, max_size=8, connection_class=Bare)
    begin = f"BEGIN; SET LOCAL app.current_workspace = '{house['workspace_uuid']}'"
    verified: dict[str, dict[str, Any]] = {}

    def check(headers: dict[str, str]) -> None:
        token = headers["Token"]
        if token not in verified:
            verified[token] = jwt.decode(token, KEY, algorithms=["HS256"], audience="vault", issuer="gateway")
        if time.time() > float(headers["Deadline"]):
            raise TimeoutError

    async def announce(connection: Any, kind: str, target: str, request_id: str, version: int) -> None:
        data = orjson.dumps({"secret_id": target, "version": version}).decode()
        await connection.execute(OUTBOX, uuid.uuid4(), kind, target, house["tenant"], None, request_id, "", data)

    async def get(message: Any) -> None:
        check(message.headers)
        path = orjson.loads(message.data)["path"]
        async with pool.acquire() as connection:
            await connection.execute(begin)
            (row,) = await connection.fetch(READ, path)
            await connection.execute("COMMIT")
        await message.respond(orjson.dumps(dict(row), default=str))

    async def put(message: Any) -> None:
        check(message.headers)
        request = orjson.loads(message.data)
        raw = base64.b64decode(request["value"])
        value = BUS.decrypt(raw[:12], raw[12:], b"")
        async with pool.acquire() as connection:
            await connection.execute(begin)
            (row,) = await connection.fetch(WRITE, request["path"], uuid.uuid4())
            salt, nonce = os.urandom(16), os.urandom(12)
            key, commitment = derive(salt)
            sealed = AESGCM(key).encrypt(nonce, value, f"{request['path']}@{row['version']}".encode())
            text = base64.b64encode(salt + commitment + nonce + sealed).decode()
            await connection.execute(ADD_VERSION, request["path"], row["version"], text, house["tenant"])
            await announce(connection, "vault.x", str(row["id"]), message.headers["Request-Id"], row["version"])
            await connection.execute("COMMIT")
        await message.respond(orjson.dumps(dict(row), default=str))

    async def reveal(message: Any) -> None:
        check(message.headers)
        path = orjson.loads(message.data)["path"]
        async with pool.acquire() as connection:
            await connection.execute(begin)
            (row,) = await connection.fetch(REVEAL, path)
            raw = base64.b64decode(row["sealed"])
            key, commitment = derive(raw[:16])
            if commitment != raw[16:48]:
                raise ValueError
            value = AESGCM(key).decrypt(raw[48:60], raw[60:], f"{path}@{row['version']}".encode())
            await announce(connection, "vault.x", str(row["id"]), message.headers["Request-Id"], row["version"])
            await connection.execute("COMMIT")
        nonce = os.urandom(12)
        shown = base64.b64encode(nonce + BUS.encrypt(nonce, value, b"")).decode()
        await message.respond(
            orjson.dumps({"id": str(row["id"]), "path": path, "version": row["version"], "value": shown})
        )

    async def encrypt(message: Any) -> None:
        check(message.headers)
        request = orjson.loads(message.data)
        raw = base64.b64decode(request["plaintext"])
        plaintext = base64.b64decode(BUS.decrypt(raw[:12], raw[12:], b""))
        salt, nonce = os.urandom(16), os.urandom(12)
        key, commitment = derive(salt)
        sealed = AESGCM(key).encrypt(nonce, plaintext, f"{house['tenant']}/{request['name']}".encode())
        text = base64.b64encode(salt + commitment + nonce + sealed).decode()
        await message.respond(orjson.dumps({"ciphertext": f"clv1:1:{text}"}))

    running: set[asyncio.Task[None]] = set()

    def done(task: asyncio.Task[None]) -> None:
        running.discard(task)
        if (error := task.exception()) is not None:
            print(repr(error), file=sys.stderr)

    def spawn(handler: Any) -> Any:
        async def receive(message: Any) -> None:
            task = asyncio.create_task(handler(message))
            running.add(task)
            task.add_done_callback(done)

        return receive

    for name, handler in (("get", get), ("put", put), ("reveal", reveal), ("encrypt", encrypt)):
        await client.subscribe(f"cmd.vault.reference.{name}", queue="vault", cb=spawn(handler))
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    house = json.loads(sys.stdin.readline())
    uvloop.run({"gateway": gateway, "service": service}[sys.argv[1]](house))
