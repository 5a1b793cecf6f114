"""An auditor's journey through the whole house: pin the key, look, keep the checkpoint, look again, be shown a lie."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from causeloop_common import ids
from causeloop_log.tlog import merkle
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import LogProof
from tests.support.log import tree_hash
from tests.support.stack import Person, Stack, content_of, refused, until

TEXT = {"accept": "text/plain"}

Command = Callable[..., Any]


@pytest.fixture
async def person(stack: Stack) -> Person:
    """Somebody with a workspace and a few acts in its log."""
    someone = await stack.sign_up()
    for number in range(5):
        content_of(await someone.put(f"/secrets/s{number}", json={"value": "v"}))
    await someone.log(least=8)
    return someone


@pytest.fixture
def causeloop(stack: Stack, person: Person, tmp_path: Path) -> Command:
    """Run `causeloop audit …` as this person: exit code and output."""
    (tmp_path / "token").write_text(person.token)

    async def run(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "causeloop_cli", "audit", *arguments,
            cwd=tmp_path, env={"PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, output.decode()

    async def audit(action: str, *arguments: str) -> tuple[int, str]:
        where = ("--url", f"http://127.0.0.1:{stack.port}", "--token-file", "token")
        return await run(action, *arguments, *where)

    return audit


async def key_of(person: Person) -> VerifierKey:
    return VerifierKey.parse((await person.get("/audit/key", headers=TEXT)).text)


async def checkpoint_of(person: Person) -> Checkpoint:
    answer = await person.get("/audit/checkpoint", headers=TEXT)
    assert answer.status_code == 200, answer.text
    return Checkpoint.verified(answer.text, await key_of(person))


@asynccontextmanager
async def rewritten(stack: Stack, person: Person, *statements: str) -> AsyncIterator[None]:
    """The log as somebody left it who can write to the database; afterwards as it was."""
    workspace = ids.tenant_uuid(person.workspace)
    tables = ("audit.entries", "audit.heads", "audit.checkpoints")
    async with stack.sql() as sql:
        kept = {t: await sql.fetch(f"SELECT t AS r FROM {t} t WHERE workspace_id = $1", workspace) for t in tables}
        for statement in statements:
            await sql.execute(statement, workspace)
        try:
            yield
        finally:
            for table, rows in kept.items():
                await sql.execute(f"DELETE FROM {table} WHERE workspace_id = $1", workspace)
                for row in rows:
                    names = ", ".join(f'"{name}"' for name in row["r"].keys())  # noqa: SIM118  a record
                    marks = ", ".join(f"${n}" for n in range(1, len(row["r"]) + 1))
                    await sql.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", *row["r"].values())


async def is_signed(stack: Stack, person: Person) -> bool:
    """Whether the head of a workspace's log is signed as it stands."""
    async with stack.sql() as sql:
        found = "SELECT count(*) FROM audit.heads JOIN audit.checkpoints USING (workspace_id, size, root)"
        return bool(await sql.fetchval(f"{found} WHERE workspace_id = $1", ids.tenant_uuid(person.workspace)))


class TestCheckpoint:
    async def test_is_the_root_of_the_entries_that_are_shown(self, person: Person) -> None:
        told_of = content_of(await person.get("/audit/checkpoint"))
        entries = [entry async for entry in person.pages("/audit/events?order=index&limit=100")]
        proofs = [content_of(await person.get(f"/audit/events/{entry['id']}/proof")) for entry in entries]
        leaves = [proof["leaf"].encode() for proof in proofs]
        assert told_of["size"] == len(entries)
        assert told_of["root"] == tree_hash(leaves).hex()
        assert [proof["leaf_hash"] for proof in proofs] == [entry["leaf_hash"] for entry in entries]
        assert (await checkpoint_of(person)).root.hex() == told_of["root"]

    async def test_is_text_to_who_prefers_text_and_json_to_everybody_else(self, person: Person) -> None:
        for path, field in (("/audit/checkpoint", "checkpoint"), ("/audit/key", "key")):
            as_json = await person.get(path)
            as_text = await person.get(path, headers=TEXT)
            assert as_json.headers["content-type"] == "application/json"
            assert as_text.headers["content-type"] == "text/plain; charset=utf-8"
            assert as_text.text == as_json.json()[field]
            both = await person.get(path, headers={"accept": "text/plain, application/json"})
            assert both.headers["content-type"] == "application/json"

    async def test_needs_the_right_to_read_the_log(self, person: Person) -> None:
        token = (await person.personal_token("secrets:read"))["token"]
        for path in (
            "/audit/checkpoint",
            "/audit/key",
            "/audit/consistency?from=0",
            f"/audit/events/{ids.new('evt')}/proof",
        ):
            refused(await person.get(path, token=token), 403, "forbidden")

    async def test_of_another_tenant_is_under_another_key(self, stack: Stack, person: Person) -> None:
        other = await stack.sign_up()
        assert await key_of(person) != await key_of(other)
        assert (await key_of(person)).public == (await key_of(other)).public


class TestProof:
    async def test_of_every_entry_verifies_as_a_file_of_its_own(self, person: Person) -> None:
        key = await key_of(person)
        async for entry in person.pages("/audit/events?order=index&limit=100"):
            answer = await person.get(f"/audit/events/{entry['id']}/proof", headers=TEXT)
            proof = LogProof.parse(answer.text)
            assert proof.index == entry["index"]
            assert json.loads(proof.leaf or b"")["id"] == entry["id"]
            proof.verified(key, hashlib.sha256(b"\x00" + (proof.leaf or b"")).digest())

    async def test_of_growth_leads_from_any_earlier_checkpoint_to_a_later_one(self, person: Person) -> None:
        earlier = await checkpoint_of(person)
        content_of(await person.put("/secrets/later", json={"value": "v"}))
        await person.log(least=earlier.size + 1)
        later = await checkpoint_of(person)
        answer = content_of(await person.get(f"/audit/consistency?from={earlier.size}&to={later.size}"))
        path = [bytes.fromhex(sibling) for sibling in answer["path"]]
        merkle.verify_consistency(earlier.size, earlier.root, later.size, later.root, path)
        assert answer == content_of(await person.get(f"/audit/consistency?from={earlier.size}"))

    @pytest.mark.parametrize(
        ("query", "field"), [("", "from"), ("from=x", "from"), ("from=-1", "from"), ("from=5&to=4", "from"),
                             ("from=1&to=100000", "to"), ("from=1&more=2", "more")]
    )  # fmt: skip
    async def test_of_growth_refuses_by_name_what_cannot_be(self, person: Person, query: str, field: str) -> None:
        problem = refused(await person.get(f"/audit/consistency?{query}"), 422, "validation_error")
        assert list(problem["errors"]) == [field]

    async def test_of_what_is_not_in_the_log_is_not_found(self, stack: Stack, person: Person) -> None:
        other = await stack.sign_up()
        (foreign, *_) = await other.log()
        for event in (ids.new("evt"), foreign["id"]):
            refused(await person.get(f"/audit/events/{event}/proof"), 404, "not_found")


class TestAnAuditor:
    async def test_pins_the_key_looks_keeps_the_checkpoint_and_looks_again(
        self, person: Person, causeloop: Command, tmp_path: Path
    ) -> None:
        (tmp_path / "key").write_text(str(await key_of(person)))
        code, output = await causeloop("verify", "--key", "key", "--kept", "kept")
        assert code == 0, output
        assert "VERIFIED: causeloop.localhost/log/" in output

        content_of(await person.put("/secrets/later", json={"value": "v"}))
        code, output = await causeloop("verify", "--key", "key", "--kept", "kept")
        assert code == 0, output
        assert "  6  ok      history" in output

        code, output = await causeloop("export", "--to", "log.ndjson")
        assert code == 0, output
        code, output = await causeloop("verify", "log.ndjson", "--key", "key", "--kept", "kept")
        assert code == 0, output

        (entry, *_) = await person.log(least=1)
        assert (await causeloop("proof", entry["id"], "--to", "one.tlog-proof"))[0] == 0
        code, output = await causeloop("verify", "one.tlog-proof", "--key", "key")
        assert code == 0, output
        assert f"Its index is {entry['index']}, in a log of" in output

    async def test_is_warned_by_the_vault_s_refusal_of_a_log_that_lost_its_end(
        self, stack: Stack, person: Person, causeloop: Command
    ) -> None:
        size = (await checkpoint_of(person)).size
        async with rewritten(
            stack,
            person,
            f"DELETE FROM audit.entries WHERE workspace_id = $1 AND index >= {size - 2}",
            f"UPDATE audit.heads SET size = {size - 2} WHERE workspace_id = $1",
            "DELETE FROM audit.checkpoints WHERE workspace_id = $1",
        ):
            problem = refused(await person.get("/audit/checkpoint"), 409, "conflict")
            assert f"it has {size - 2} entries, and {size} were signed" in problem["detail"]
            code, output = await causeloop("verify")
            assert code == 1
            assert "NOT VERIFIED: step 2, checkpoint." in output
        assert (await checkpoint_of(person)).size >= size

    async def test_finds_an_entry_that_was_rewritten_though_the_head_was_not(
        self, stack: Stack, person: Person, causeloop: Command
    ) -> None:
        """E30: the entry, its proof, the list and the stream are refused, with its index, and it is an alarm."""
        await checkpoint_of(person)
        entries = [entry async for entry in person.pages("/audit/events?order=index")]
        written = next(entry for entry in entries if (entry["data"] or {}).get("version") == 1)
        alarms = await stack.metric("audit", "causeloop_audit_logs_broken_total")
        bend = "replace(leaf, '\"version\":1', '\"version\":2')"
        where = f"workspace_id = $1 AND index = {written['index']}"
        async with rewritten(stack, person, f"UPDATE audit.entries SET leaf = {bend} WHERE {where}"):
            code, output = await causeloop("verify")
            assert code == 1
            assert f"Entry {written['index']} of the log was changed after it was entered." in output
            assert "NOT VERIFIED: step 3, entries." in output
            path = f"/audit/events/{written['id']}"
            for asked in (path, f"{path}/proof", "/audit/events?order=index&limit=100"):
                problem = refused(await person.get(asked), 409, "conflict")
                assert f"Entry {written['index']} of the log was changed" in problem["detail"]
            assert await stack.metric("audit", "causeloop_audit_logs_broken_total") >= alarms + 4

    @pytest.mark.parametrize("change", ["action = 'vault.secret_read'", "actor = 'usr_x'", "occurred_at = now()"])
    async def test_finds_a_column_beside_the_entry_that_was_rewritten(
        self, stack: Stack, person: Person, change: str
    ) -> None:
        """E30: lists are filtered and shown by columns, which are no part of the hash."""
        newest = (await person.log())[-1]
        statement = f"UPDATE audit.entries SET {change} WHERE workspace_id = $1 AND index = {newest['index']}"
        async with rewritten(stack, person, statement):
            problem = refused(await person.get(f"/audit/events/{newest['id']}"), 409, "conflict")
            assert f"Entry {newest['index']} of the log was changed" in problem["detail"]

    async def test_is_warned_of_a_log_that_was_rewritten_at_its_size_and_gets_no_old_checkpoint_for_it(
        self, stack: Stack, person: Person
    ) -> None:
        await checkpoint_of(person)
        forged = merkle.leaf_hash(b"forged").hex()
        async with rewritten(stack, person, f"UPDATE audit.heads SET root = '\\x{forged}' WHERE workspace_id = $1"):
            problem = refused(await person.get("/audit/checkpoint"), 409, "conflict")
            assert "another root than was signed at the same size" in problem["detail"]

    async def test_is_warned_of_a_log_that_lost_entries_and_audit_goes_on_for_everybody_else(
        self, stack: Stack, person: Person
    ) -> None:
        """What is missing for a proof ends nobody's signing but its own."""
        size = (await checkpoint_of(person)).size
        broken = await stack.metric("audit", "causeloop_audit_logs_broken_total")
        async with rewritten(
            stack,
            person,
            "DELETE FROM audit.entries WHERE workspace_id = $1 AND index = 1",
            "UPDATE audit.heads SET size = size + 1, root = sha256('x') WHERE workspace_id = $1",
        ):
            refused(await person.get("/audit/checkpoint"), 409, "conflict")
            problem = refused(await person.get(f"/audit/consistency?from=1&to={size}"), 409, "conflict")
            assert "entries or nodes of it are missing" in problem["detail"]
            other = await stack.sign_up()
            await until("the signer signs a log that nobody asks for", lambda: is_signed(stack, other))
            assert (await stack.readiness("audit"))["status"] == "ready"
        assert await stack.metric("audit", "causeloop_audit_logs_broken_total") > broken

    async def test_is_warned_of_a_restored_log_though_nobody_asks(self, stack: Stack, person: Person) -> None:
        size = (await checkpoint_of(person)).size
        broken = await stack.metric("audit", "causeloop_audit_logs_broken_total")

        async def noticed() -> bool:
            return await stack.metric("audit", "causeloop_audit_logs_broken_total") > broken

        async with rewritten(
            stack,
            person,
            f"DELETE FROM audit.entries WHERE workspace_id = $1 AND index >= {size - 1}",
            f"UPDATE audit.heads SET size = {size - 1} WHERE workspace_id = $1",
        ):
            await until("the signer notices", noticed)
        criticals = [line for line in stack.log("audit") if line["level"] == "CRITICAL"]
        assert any(person.workspace in line["message"] for line in criticals)

    async def test_has_no_history_rewritten_under_a_new_head(self, stack: Stack, person: Person) -> None:
        """By who can write everything but to the vault: entries, hashes and head agree, and are not what was signed."""
        size = (await checkpoint_of(person)).size
        frontier = merkle.Frontier()
        for number in range(size + 1):
            frontier.append(merkle.leaf_hash(b"forged %d" % number))
        hashed = "sha256('\\x00'::bytea || convert_to('forged ' || index, 'UTF8'))"
        names = "action, actor, credential, target, request_id, occurred_at, leaf_hash, leaf"
        head = f"size = {size + 1}, root = '\\x{frontier.root().hex()}', peaks = '\\x{frontier.pack().hex()}'"
        async with rewritten(
            stack,
            person,
            f"INSERT INTO audit.entries (workspace_id, index, event_id, service, {names}) "
            f"SELECT workspace_id, index + 1, gen_random_uuid(), service, {names} "
            f"FROM audit.entries WHERE workspace_id = $1 AND index = {size - 1}",
            f"UPDATE audit.entries SET leaf = 'forged ' || index, leaf_hash = {hashed} WHERE workspace_id = $1",
            f"UPDATE audit.heads SET {head} WHERE workspace_id = $1",
        ):
            problem = refused(await person.get("/audit/checkpoint"), 409, "conflict")
            assert "does not continue what was signed of it" in problem["detail"]
        assert await stack.metric("vault", 'causeloop_vault_checkpoints_total{outcome="refused"}') > 0
        assert await stack.metric("audit", "causeloop_audit_logs_broken_total") > 0
