"""The promises that hold in the end, whichever process was killed when.

Every acknowledged act is in the database and exactly once in its tenant's log, nothing is doubled, nothing that was
refused with 503 happened, one key has one effect, tokens open what they should and no more. Every log is dense,
computes, is signed, and begins with each head of it that a client was given; every entry of it is proven.
"""

from collections import Counter
from typing import Any

import httpx

from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.audit import GetCheckpoint, GetEventProof
from causeloop_common.contracts.vault import GetAuditKey
from causeloop_common.errors import AppError
from causeloop_common.permissions import Permission
from causeloop_log.tlog import NotVerified
from causeloop_log.tlog.merkle import leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import LogProof
from causeloop_log.verification import Refused, Verification
from chaos.model import Model, fate
from tests.support.bus import asking
from tests.support.log import assert_computes, stored_log
from tests.support.stack import Stack, until

Log = Counter[tuple[str, str]]
"""How often a tenant's log has an action on a target."""

_OUTBOXES = " UNION ALL ".join(f"SELECT workspace_id, event_id FROM {name}.outbox" for name in topology.OWNERS)
_MISSING = f"""
    SELECT workspace_id, count(*) FROM ({_OUTBOXES}) o
    WHERE NOT EXISTS (SELECT FROM audit.entries e WHERE (e.workspace_id, e.event_id) = (o.workspace_id, o.event_id))
    GROUP BY workspace_id
"""
_INVENTED = f"""
    SELECT count(*) FROM audit.entries e
    WHERE e.workspace_id = ANY($1) AND action NOT LIKE 'gateway.%'
      AND NOT EXISTS (SELECT FROM ({_OUTBOXES}) o WHERE (e.workspace_id, e.event_id) = (o.workspace_id, o.event_id))
"""
_DOUBLED = "SELECT count(*) - count(DISTINCT event_id) FROM audit.entries"


async def judge(stack: Stack, model: Model) -> None:
    """Write everything that is not so into `model.broken`."""
    await stack.ready()
    await _drained(stack, model)
    logs = await _logs(stack, model)
    async with stack.sql() as sql:
        await _judge_secrets(sql, model, logs)
        await _judge_tokens(sql, model, logs)
        await _judge_workspaces(sql, model, logs)
    _judge_sessions(model, logs)
    await _judge_access(stack, model)
    await _judge_proofs(stack, model)


async def _drained(stack: Stack, model: Model) -> None:
    """Wait until every event that was committed is in its log; there is nothing else in any."""
    async with stack.sql() as sql:

        async def nothing_is_missing() -> bool:
            return not await sql.fetch(_MISSING)

        try:
            await until("every committed event is in its log", nothing_is_missing, every=0.2)
        except AssertionError:
            for tenant, missing in await sql.fetch(_MISSING):
                refused = await sql.fetchval("SELECT why FROM audit.refused WHERE workspace_id = $1", tenant)
                model.breaks(f"{missing} events of {tenant} are not in its log, which is refused: {refused}")
        if invented := await sql.fetchval(_INVENTED, [ids.tenant_uuid(tenant) for tenant in _tenants(model)]):
            model.breaks(f"{invented} entries are of events that nobody committed")
        if doubled := await sql.fetchval(_DOUBLED):
            model.breaks(f"{doubled} entries are there twice")


def _tenants(model: Model) -> list[str]:
    """Every workspace and realm that there is for sure."""
    return [*(made.id for made in model.workspaces if made.id), *(session.realm for session in model.sessions)]


async def _logs(stack: Stack, model: Model) -> dict[str, Log]:
    """Every tenant's log, counted, after a look at whether it holds."""
    logs = {}
    for tenant in _tenants(model):
        entries, head = await stored_log(stack, tenant)
        try:
            assert_computes(entries, head, tenant)
        except (AssertionError, TypeError) as error:
            model.breaks(f"the log of {tenant} does not hold: {str(error)[:300]}")
        logs[tenant] = Counter((entry["action"], entry["target"]) for entry in entries)
    return logs


async def _judge_proofs(stack: Stack, model: Model) -> None:
    """Every log as an auditor sees it who trusts a key and the heads that were given out, and nothing else."""
    kept: dict[str, list[str | None]] = {}
    for tenant, signed in model.checkpoints:
        kept.setdefault(tenant, []).append(signed)
    async with stack.bus_of("gateway") as bus:  # which may ask in every tenant, realms too
        for tenant in _tenants(model):
            ctx = asking(tenant, "svc_judge", Permission.AUDIT_READ)
            entries, _ = await stored_log(stack, tenant)
            leaves = [entry["leaf"].encode() for entry in entries]
            try:
                key = (await bus.call(ctx, GetAuditKey())).key
                signed = (await bus.call(ctx, GetCheckpoint())).checkpoint
                for earlier in kept.get(tenant, [None]):
                    Verification(lambda _: None).log(key, None, signed, leaves, earlier)
                for entry, leaf in zip(entries, leaves, strict=True):
                    proof = await bus.call(ctx, GetEventProof(id=ids.encode("evt", entry["event_id"])))
                    LogProof.parse(proof.tlog_proof).verified(VerifierKey.parse(key), leaf_hash(leaf))
                    assert proof.index == entry["index"]
                    model.proven += 1
            except (AppError, Refused, NotVerified, AssertionError) as error:
                model.breaks(f"the log of {tenant} is not proven: {str(error)[:300]}")


def _judge_presence(model: Model, what: str, answers: list[int], there: int) -> bool:
    """Acknowledged is there, refused is not, nothing is twice. Whether it is there."""
    became = fate(answers)
    if became == "done" and not there:
        model.breaks(f"{what} was acknowledged and is lost: {answers}")
    if became == "refused" and there:
        model.breaks(f"{what} was refused with 503 and happened: {answers}")
    if there > 1:
        model.breaks(f"{what} happened {there} times: {answers}")
    return there > 0


def _judge_count(model: Model, what: str, answers: list[int], recorded: int) -> None:
    """An act that may be repeated is recorded as often as it was acknowledged, or as nobody knows whether it was."""
    sure = sum(200 <= answer < 300 for answer in answers)
    perhaps = sum(answer in (0, 504) for answer in answers)
    if not sure <= recorded <= sure + perhaps:
        model.breaks(f"{what} is recorded {recorded} times: {Counter(answers)}")


async def _judge_secrets(sql: Any, model: Model, logs: dict[str, Log]) -> None:
    rows = await sql.fetch("SELECT workspace_id, path, id, version FROM vault.secrets")
    stored = {(row["workspace_id"], row["path"]): row for row in rows}
    for secret in model.secrets:
        row = stored.get((ids.tenant_uuid(secret.workspace), secret.path))
        if not _judge_presence(model, secret.path, secret.answers, row["version"] if row else 0) or row is None:
            continue
        target = ids.encode("sec", row["id"])
        log = logs[secret.workspace]
        if (recorded := log["vault.secret_written", target]) != 1:
            model.breaks(f"{secret.path} is recorded {recorded} times")
        _judge_count(model, f"revealing {secret.path}", secret.reveals, log["vault.secret_revealed", target])


async def _judge_tokens(sql: Any, model: Model, logs: dict[str, Log]) -> None:
    rows = await sql.fetch("SELECT workspace_id, name, id, revoked_at FROM auth.tokens")
    made = Counter((row["workspace_id"], row["name"]) for row in rows)
    stored = {(row["workspace_id"], row["name"]): row for row in rows}
    for token in model.tokens:
        name = (ids.tenant_uuid(token.workspace), token.name)
        if not _judge_presence(model, token.name, token.answers, made[name]):
            continue
        target = ids.encode("tok", stored[name]["id"])
        log = logs[token.workspace]
        if (recorded := log["auth.token_created", target]) != 1:
            model.breaks(f"{token.name} is recorded {recorded} times")
        revoked = stored[name]["revoked_at"] is not None
        if token.revocations:
            _judge_presence(model, f"revoking {token.name}", token.revocations, revoked)
        if (recorded := log["auth.token_revoked", target]) != revoked:
            model.breaks(f"the revocation of {token.name} is recorded {recorded} times")


async def _judge_workspaces(sql: Any, model: Model, logs: dict[str, Log]) -> None:
    rows = await sql.fetch("SELECT workspace_id, slug FROM tenancy.workspaces")
    made = Counter(row["slug"] for row in rows)
    for workspace in model.workspaces:
        _judge_presence(model, workspace.slug, workspace.answers, made[workspace.slug])
        if workspace.id and (n := logs[workspace.id]["tenancy.workspace_created", workspace.id]) != 1:
            model.breaks(f"{workspace.slug} is recorded {n} times")


def _judge_sessions(model: Model, logs: dict[str, Log]) -> None:
    for session in model.sessions:
        log = Counter[str]()
        for (action, _), count in logs[session.realm].items():
            log[action] += count
        for what, answers in (("started", session.starts), ("refreshed", session.refreshes)):
            _judge_count(model, f"session_{what} of {session.realm}", answers, log[f"auth.session_{what}"])
        if session.ends:
            _judge_presence(model, f"ending {session.realm}", session.ends, log["auth.session_ended"])
        elif log["auth.session_ended"]:
            model.breaks(f"{session.realm} was signed out by nobody")


async def _judge_access(stack: Stack, model: Model) -> None:
    """Every token, asked once more: what was acknowledged opens, what was revoked does not."""

    async def status(bearer: str) -> int:
        answer: httpx.Response = await stack.http.get("/v1/workspace", headers={"authorization": f"Bearer {bearer}"})
        return answer.status_code

    for token in model.tokens:
        if not token.secret or (token.revocations and fate(token.revocations) == "unknown"):
            continue
        expected = 401 if fate(token.revocations or [503]) == "done" else 200
        if (code := await status(token.secret)) != expected:
            model.breaks(f"{token.name} is answered {code} instead of {expected}; revoked: {token.revocations}")
    for session in model.sessions:
        if session.token and fate(session.ends) == "done" and (code := await status(session.token)) != 401:
            model.breaks(f"the access token of an ended session of {session.realm} is answered {code}")
