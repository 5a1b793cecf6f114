"""The row of proofs: one entry's inclusion proof over HTTP, in a log of a million entries, one after the other."""

import http.client
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import uvloop

from bench.audit import events
from bench.rows import Bed, bed
from bench.run import Effort, Measure, Row
from causeloop_audit.models import WRITER, metadata
from causeloop_audit.repository import LogWriter
from causeloop_audit.service import LogService, Readers
from causeloop_audit.settings import AuditSettings
from causeloop_common.database import Connections, Database, role_connections
from causeloop_log.tlog.merkle import leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import LogProof

ENTRIES = 1_000_000
AT_ONCE = 5_000
ASKED = 1_000
"""Proofs in a turn, each of an entry by chance."""

LIMIT_MS = 10.0


def audit_proof(effort: Effort) -> Row:
    """GET of an entry's proof; every one that is measured is verified afterwards."""
    with bed() as ready:
        entries, asked = effort.of(ENTRIES), effort.of(ASKED)
        known = uvloop.run(_fill(ready, entries))
        _get(_connect(ready), ready, "/audit/checkpoint")  # proofs lead to the last one, and so to all entries
        key = VerifierKey.parse(_get(_connect(ready), ready, "/audit/key")["key"])
        turns = [_turn(ready, random.sample(known, asked), key, entries) for _ in range(effort.rounds)]
    p50, p99 = (statistics.median(turn[at] for turn in turns) for at in (0, 1))
    return Row(p99, None, None, "ms", "lower", f"p99 <= {LIMIT_MS:g} ms", p99 <= LIMIT_MS, p50, p99)


class BesideTheIntake:
    """Transactions of the writer's role in no term."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """One of them."""
        async with self._connections.borrowed() as connection, connection.transaction():
            yield connection

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Rows, outside of one."""
        async with self._connections.borrowed() as connection:
            return list(await connection.fetch(statement, *values))


async def _fill(ready: Bed, entries: int) -> list[str]:
    """A log of so many entries; the ids of some."""
    settings = AuditSettings.load("audit", ready.house["environ"]["audit"])
    connections = role_connections(settings.dsn(WRITER), WRITER)
    database = Database(settings.dsn("causeloop_audit"), "audit", metadata, workers=1)
    log = LogService(database, LogWriter(BesideTheIntake(connections)), bytes(32), Readers())
    known: list[str] = []
    for done in range(0, entries, AT_ONCE):
        batch = events(AT_ONCE, [ready.workspace])
        await log.append(batch)
        known += (event.id for event in random.sample(batch, 50))
        if done % 100_000 == 0:
            print(f"… audit_proof: {done} entries", file=sys.stderr)
    await connections.close(1)
    return known


def _turn(ready: Bed, wanted: list[str], key: VerifierKey, entries: int) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    connection, answers, taken = _connect(ready), [], []
    for event in wanted:
        began = time.perf_counter()
        answers.append(_get(connection, ready, f"/audit/events/{event}/proof", decode=bytes))
        taken.append((time.perf_counter() - began) * 1000)
    connection.close()
    for answer in answers:
        shown = orjson.loads(answer)
        checkpoint = LogProof.parse(shown["tlog_proof"]).verified(key, leaf_hash(shown["leaf"].encode()))
        assert checkpoint.size >= entries
    taken.sort()
    return statistics.median(taken), taken[int(len(taken) * 0.99)]


def _connect(ready: Bed) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", ready.port, timeout=30)


def _get(
    connection: http.client.HTTPConnection, ready: Bed, path: str, decode: Callable[[bytes], Any] = orjson.loads
) -> Any:
    connection.request("GET", f"/v1{path}", headers={"authorization": f"Bearer {ready.token}"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path} was answered {answer.status}: {body[:300]!r}")
    return decode(body)


ROWS: dict[str, Measure] = {"audit_proof": audit_proof}
