"""The blocks of the pages run as they are pasted into bash and zsh, beside a running stack."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from causeloop_common.contracts.base import events
from causeloop_common.contracts.topology import ANNOUNCERS
from causeloop_common.permissions import ROLES
from tests.documents.pages import ROOT, blocks, text
from tests.support.stack import Person, Stack, until

SHELLS = {"bash": ("--noprofile", "--norc"), "zsh": ("-f",)}
HERE = [name for name in SHELLS if shutil.which(name)]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "libs/*/README.md", "services/*/README.md")
    for path in ROOT.glob(pattern)
    if blocks(str(path.relative_to(ROOT)), "sh")
)
TROUBLE = re.compile(
    r"command not found|parse error|syntax error|no matches found|Traceback|curl: \(|KeyError|causeloop \w+: "
)


def has_json() -> bool:
    """Whether there is a curl that knows --json."""
    if shutil.which("curl") is None:
        return False
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"curl (\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= (7, 82)


async def pasted(shell: str, page: str, folder: Path) -> str:
    """What an interactive shell prints when every block of a page is pasted into it, but those that begin with make."""
    typed = "".join(block for block in blocks(page, "sh") if not block.startswith("make "))
    assert "sleep" not in typed, "a page waits for what it needs"
    process = await asyncio.create_subprocess_exec(
        shell,
        *SHELLS[shell],
        "-i",
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "HISTFILE": ""},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # an interactive shell would fight for the terminal of the tests
    )
    async with asyncio.timeout(120):
        printed, _ = await process.communicate(typed.encode())
    return printed.decode()


@pytest.fixture
async def folder(stack: Stack, owner: Person, tmp_path: Path) -> Path:
    """A folder as `make dev` leaves it."""
    token = await owner.personal_token(*ROLES["owner"])
    told = {
        "gateway_url": str(stack.http.base_url),
        "issuer_url": stack.issuer_url,
        "tokens": {"owner": token["token"]},
        "pids": {"supervisor": os.getpid()},
    }
    (tmp_path / ".causeloop").mkdir()
    (tmp_path / ".causeloop/dev.json").write_text(json.dumps(told))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


class TestEveryBlock:
    @pytest.mark.parametrize("page", PAGES)
    def test_has_no_comment_and_no_exclamation_mark(self, page: str) -> None:
        """F3: an interactive zsh runs comments, and interactive shells replace what follows an exclamation mark."""
        for block in blocks(page, "sh"):
            assert not re.search(r"(?m)(^|\s)#", block), block
            assert "!" not in block, block

    @pytest.mark.parametrize("shell", SHELLS)
    @pytest.mark.parametrize("page", PAGES)
    def test_is_good_syntax(self, shell: str, page: str) -> None:
        if shell not in HERE:
            pytest.skip(f"{shell} is not installed")
        for block in blocks(page, "sh"):
            done = subprocess.run([shell, "-n"], input=block, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), block

    @pytest.mark.parametrize("page", PAGES)
    def test_names_targets_that_make_has(self, page: str) -> None:
        targets = set(re.findall(r"(?m)^([a-z-]+):.*## ", text("Makefile")))
        assert {name for block in blocks(page, "sh") for name in re.findall(r"(?m)^make ([a-z]+)", block)} <= targets


@pytest.mark.slow
@pytest.mark.skipif(not has_json(), reason="the pages need curl 7.82")
class TestPasted:
    @pytest.mark.parametrize("shell", HERE)
    async def test_the_readme_walks_from_a_stranger_to_a_revoked_token(
        self, stack: Stack, folder: Path, shell: str
    ) -> None:
        """F3, F4: the README pasted whole, whose log has each act that it just made."""
        printed = await pasted(shell, "README.md", folder)

        assert not TROUBLE.search(printed), printed
        assert '"value":"correct horse"' in printed
        assert '"value":"s3cret"' in printed
        assert re.findall(r'"status":(\d+)', printed) == ["403", "401"]
        assert re.findall(r"(?m)^(VERIFIED|NOT VERIFIED): (?:step 5, root)?", printed) == ["VERIFIED", "NOT VERIFIED"]

        bob = Person(stack, "bob")
        await bob.sign_in()
        (mine,) = [one async for one in bob.pages("/me/workspaces")]
        await bob.move(mine["workspace_id"])

        sentence = text("README.md").partition("The log names")[2].partition("each with")[0]
        named = re.findall(r"`(\w+\.\w+)`", sentence)
        assert len(named) == 6

        async def recorded() -> bool:
            return [entry["action"] for entry in await bob.log()][:6] == named

        await until("the log has the acts that the page names, in that order", recorded)

    @pytest.mark.parametrize("shell", HERE[-1:])
    async def test_the_page_for_consumers_follows_and_verifies(self, folder: Path, shell: str) -> None:
        """F5: one token and one address on every page, and no command before the permission that it needs."""
        printed = await pasted(shell, "docs/audit-consumers.md", folder)

        assert not TROUBLE.search(printed), printed
        assert "id: -1" in printed
        assert re.search(r'(?m)^data: \{"action":"tenancy.workspace_created",', printed)
        assert printed.count("\nVERIFIED: ") == 4
        assert (folder / ".causeloop/log.key").read_text().startswith("causeloop.localhost/log/ws_")
        assert "history" in printed


class TestPython:
    @pytest.mark.slow
    async def test_the_readme_calls_and_follows_with_the_client(self, stack: Stack, owner: Person) -> None:
        (block,) = blocks("README.md", "python")
        token = await owner.personal_token(*ROLES["owner"])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            block,
            env={"CAUSELOOP_URL": str(stack.http.base_url), "CAUSELOOP_TOKEN": token["token"]},
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            printed, _ = await process.communicate()

        assert process.returncode == 0
        assert printed.decode().splitlines()[:3] == ["s3cret", "0 tenancy.workspace_created", "1 tenancy.member_added"]


class TestActions:
    def test_the_readme_names_actions_that_there_are(self) -> None:
        known = {kind.type for owner in ANNOUNCERS.values() for kind in events(owner)}
        named = set(re.findall(r"`((?:auth|tenancy|vault|gateway)\.\w+)`", text("README.md")))
        assert named <= known
