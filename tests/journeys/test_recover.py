"""A log whose end is lost for good: named to the operator, and continued in an epoch that nobody can overlook."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nats.errors
import pytest

from causeloop_cli.audit import recover as command
from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.vault import EpochOpened
from causeloop_common.errors import Conflict
from causeloop_log.tlog import NotVerified
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.merkle import Frontier, TreeHead
from causeloop_log.tlog.note import VerifierKey
from causeloop_vault.repository import Signed
from tests.support.stack import Person, Stack, content_of, refused, until

pytestmark = pytest.mark.slow

TEXT = {"accept": "text/plain"}

Recover = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
async def person(stack: Stack) -> Person:
    """Somebody with a few acts in the log of their workspace, all of them signed."""
    someone = await stack.sign_up()
    for number in range(5):
        content_of(await someone.put(f"/secrets/s{number}", json={"value": "v"}))
    await someone.log(least=8)
    return someone


@pytest.fixture
def recover(stack: Stack) -> Recover:
    """Run `causeloop audit recover` with the environment of the installation: exit code and output."""
    seed = stack.installation.seeds[topology.OPERATOR]
    environ = {"NATS_NKEY_SEED_OPERATOR": seed}
    for own in stack.environ.values():
        environ |= own

    async def run(*arguments: str) -> tuple[int, str]:
        return await causeloop("audit", "recover", *arguments, **environ)

    return run


async def causeloop(*arguments: str, **environ: str) -> tuple[int, str]:
    """Run a command: exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "causeloop_cli", *arguments,
        env={"PATH": os.environ["PATH"], **environ}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode()


async def lose(stack: Stack, person: Person, size: int) -> None:
    """Take the entries from `size` on out of the log, as a copy from before them would be without the stream."""
    async with stack.sql() as sql:
        log = ids.tenant_uuid(person.workspace)
        await sql.execute("DELETE FROM audit.entries WHERE workspace_id = $1 AND index >= $2", log, size)
        frontier = Frontier()
        for row in await sql.fetch("SELECT leaf_hash FROM audit.entries WHERE workspace_id = $1 ORDER BY index", log):
            frontier.append(row["leaf_hash"])
        await sql.execute(
            "UPDATE audit.heads SET size = $2, root = $3, peaks = $4 WHERE workspace_id = $1",
            log, size, frontier.root(), frontier.pack(),
        )  # fmt: skip


async def test_a_log_that_lost_its_end_for_good_begins_a_new_epoch_that_shows_the_break(
    stack: Stack, person: Person, recover: Recover, tmp_path: Path
) -> None:
    """P6: an operator is shown the log, opens an epoch of it once, and everybody sees where the one before ended."""
    old_key = VerifierKey.parse((await person.get("/audit/key", headers=TEXT)).text)
    old = Checkpoint.verified((await person.get("/audit/checkpoint", headers=TEXT)).text, old_key)
    one = ("--workspace", person.workspace)
    assert await recover(*one) == (0, "All 1 logs continue what was signed of them.\n")
    code, output = await recover(*one, "--open-epoch", "--reason", "for fun")
    assert (code, "needs no other epoch" in output) == (1, True)

    await lose(stack, person, old.size - 2)

    async def is_lost() -> bool:  # once the relays have begun the last term of the intake
        code, output = await recover(*one)
        return code == 1 and f"{old.size - 2} entries here, {old.size} signed  cannot continue" in output

    await until("the log is named", is_lost)
    async with stack.sql() as sql:  # a relay that may still have to take back what went with a restore
        term = await sql.fetchval("SELECT term FROM tenancy.relay_state")
        await sql.execute("UPDATE tenancy.relay_state SET term = 'an earlier one'")
        code, output = await recover(*one, "--open-epoch", "--reason", "too soon")
        await sql.execute("UPDATE tenancy.relay_state SET term = $1", term)
    assert code == 1
    assert "behind: the relay of tenancy has not compared its outbox with the log since audit's last start" in output
    problem = refused(await person.get("/audit/checkpoint"), 409, "conflict")
    assert f"it has {old.size - 2} entries, and {old.size} were signed" in problem["detail"]
    assert (await recover(*one, "--open-epoch"))[0] == 2

    code, output = await recover(*one, "--open-epoch", "--reason", "the end was lost")
    assert code == 0
    assert "Epoch 2 is open" in output
    assert old.root.hex() in output

    async def is_signed() -> bool:
        return (await person.get("/audit/checkpoint")).status_code == 200

    await until("the log is signed in its new epoch", is_signed)
    new_key = VerifierKey.parse((await person.get("/audit/key", headers=TEXT)).text)
    note = (await person.get("/audit/checkpoint", headers=TEXT)).text
    assert new_key.name == f"{old_key.name}/2"
    assert Checkpoint.verified(note, new_key).size >= old.size - 2
    with pytest.raises(NotVerified, match="not signed by the key"):
        Checkpoint.verified(note, old_key)
    assert content_of(await person.get("/audit/checkpoint"))["epoch"] == 2

    async def opened() -> list[dict[str, Any]]:
        return [entry["data"] or {} for entry in await person.log() if entry["action"] == EpochOpened.type]

    await until("the log has the entry", opened)
    (entry,) = await opened()
    assert (entry["epoch"], entry["ended_size"], entry["ended_root"]) == (2, old.size, old.root.hex())
    assert entry["reason"] == "the end was lost"
    (tmp_path / "log.key").write_text(f"{new_key}\n")
    (tmp_path / "old.key").write_text(f"{old_key}\n")
    (tmp_path / "token").write_text(person.token)
    gateway = ("--url", f"http://127.0.0.1:{stack.port}", "--token-file", str(tmp_path / "token"))
    file = str(tmp_path / "log.ndjson")
    assert (await causeloop("audit", "export", "--to", file, *gateway))[0] == 0
    code, output = await causeloop("audit", "verify", file, "--key", str(tmp_path / "log.key"))
    assert code == 0, output
    assert "This is epoch 2 of the log" in output
    assert f"the one before ended at {old.size} entries, with the root {old.root.hex()}: the end was lost" in output
    code, output = await causeloop("audit", "verify", file, "--key", str(tmp_path / "old.key"))
    assert code == 1
    assert "It is of epoch 2 of the log, and you pinned that of epoch 1" in output
    position = {"last-event-id": "1"}
    problem = refused(await person.get("/audit/stream", headers=position), 409, "conflict")
    assert "The log is in epoch 2, and this would go on in epoch 1" in problem["detail"]
    assert (await recover(*one))[0] == 0
    assert (await recover(*one, "--open-epoch", "--reason", "again"))[0] == 1


async def test_an_epoch_that_only_the_vault_has_is_begun_by_the_command_run_again(
    stack: Stack, person: Person, recover: Recover
) -> None:
    """P6: the command may end between its two commits, and a signer may keep the refusal of the epoch before."""
    size = content_of(await person.get("/audit/checkpoint"))["size"]
    opens = ("--workspace", person.workspace, "--open-epoch", "--reason", "the end was lost")
    await lose(stack, person, size - 2)

    async def is_open() -> bool:
        return (await recover(*opens))[0] == 0

    await until("the epoch is open", is_open)

    async def is_signed() -> bool:
        return (await person.get("/audit/checkpoint")).status_code == 200

    await until("the log is signed in its new epoch", is_signed)
    async with stack.sql() as sql:
        log = ids.tenant_uuid(person.workspace)
        await sql.execute("UPDATE audit.checkpoints SET epoch = 1 WHERE workspace_id = $1", log)
        await sql.execute(
            "INSERT INTO audit.refused (workspace_id, size, entries, why) VALUES ($1, $2, 0, 'late')", log, size + 1000
        )
    refused(await person.get("/audit/checkpoint"), 409, "conflict")
    code, output = await recover("--workspace", person.workspace)
    assert (code, "epoch 2  is not signed in it yet" in output) == (1, True), output
    code, output = await recover(*opens)
    assert (code, "Epoch 2 is open already" in output) == (0, True), output
    await until("the log is signed in it", is_signed)
    assert content_of(await person.get("/audit/checkpoint"))["epoch"] == 2


async def test_a_log_that_continues_by_now_gets_no_epoch(stack: Stack, person: Person) -> None:
    """P6: between the look at a log and the epoch its entries may have come: it is judged as it is then."""
    checkpoint = content_of(await person.get("/audit/checkpoint"))
    signed = Signed(1, TreeHead(checkpoint["size"], bytes.fromhex(checkpoint["root"])))
    async with command._opened(stack.environ) as logs:
        with pytest.raises(Conflict, match="continues what was signed of it"):
            await logs.open_epoch(command.Found(person.workspace, signed, "was shorter a moment ago"), "too late")


async def test_a_log_is_behind_until_audit_has_entered_the_stream_again_and_then_goes_on(
    stack: Stack, person: Person, recover: Recover
) -> None:
    """P6: a log that will continue by itself gets no epoch."""
    size = content_of(await person.get("/audit/checkpoint"))["size"]
    one = ("--workspace", person.workspace)
    stack.kill("audit")
    try:
        await lose(stack, person, size - 2)
        async with stack.sql() as sql:
            await sql.execute("UPDATE audit.intake SET position = 0")  # as in an older copy
        code, output = await recover(*one, "--open-epoch", "--reason", "too soon")
    finally:
        await stack.start("audit")
    assert code == 1
    assert f"{size - 2} entries here, {size} signed  behind: audit has not entered all of the stream again" in output
    assert "Nothing was done. Wait, then run this again." in output

    async def is_signed() -> bool:
        return (await person.get("/audit/checkpoint")).status_code == 200

    await until("the log continues what was signed", is_signed)
    assert await recover(*one) == (0, "All 1 logs continue what was signed of them.\n")
    checkpoint = content_of(await person.get("/audit/checkpoint"))
    assert (checkpoint["epoch"], checkpoint["size"] >= size) == (1, True)


@pytest.mark.parametrize("service", topology.SERVICES)
async def test_no_credential_of_the_bus_opens_an_epoch(stack: Stack, service: str) -> None:
    """P6: no message does it, from any sender."""
    async with stack.on_bus(service) as bus:
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await bus.request("cmd.vault.open_epoch", b"{}", timeout=0.3)
