"""The blocks of the pages run as they are pasted into bash and zsh, in a tree as it is after `make setup`.

A block that runs until Ctrl-C, such as `make dev`, is pasted into one terminal, all others of a page into a second one.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from causeloop_client import AsyncClient
from causeloop_client.calls import Exchange, ListEvents, ListMyWorkspaces, Refresh
from causeloop_common.contracts.base import events
from causeloop_common.contracts.topology import ANNOUNCERS
from causeloop_common.permissions import ROLES
from causeloop_dev.testing import Servers
from tests.documents.pages import ROOT, blocks, text
from tests.support.ports import free_port
from tests.support.stack import Person, Stack, until

SHELLS = {"bash": ("--noprofile", "--norc"), "zsh": ("-f",)}
HERE = [name for name in SHELLS if shutil.which(name)]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "libs/*/README.md", "services/*/README.md")
    for path in ROOT.glob(pattern)
    if blocks(str(path.relative_to(ROOT)), "sh")
)
SHOWN = {
    "README.md": (
        r"a log rolled back\s+REFUSED",
        r'"value":"correct horse"',
        r"(?m)^ws_\w+$",
        r'"value":"s3cret"',
        r'"status":403',
        r'"status":401',
        r"(?m)^VERIFIED: ",
        r"(?m)^NOT VERIFIED: step 5, root",
    ),
    "CONTRIBUTING.md": (r"versions/\d{4}_add_devices\.py \.\.\.\s+done",),
    "docs/audit-consumers.md": (
        r"(?m)^id: -1$",
        r'(?m)^data: \{"action":"tenancy\.workspace_created",',
        *(r"(?m)^VERIFIED: ",) * 4,
    ),
    "docs/database.md": (
        r"(?m)^database: roles, schemas and tables are as this version declares them$",
        r"(?m)^audit: \d+ events will be sent again, \d+ wait already\.$",
        r"All \d+ checks hold\.",
        r"(?m)^All \d+ logs continue what was signed of them\.$",
    ),
    "docs/observability.md": (
        r"All \d+ checks hold\.",
        r"(?m)^There are no dead letters\.$",
        r"(?m)^EVENTS: \d+ messages removed",
    ),
}
"""What each page, pasted, prints in this order. A page that gets its first block fails until it has its line here."""
READY = {
    r"make dev$": r"Causeloop is ready",
    r"audit tail --from 0$": r"(?m)^   1  \S+\+00:00  tenancy\.member_added        usr_\w+  usr_\w+$",
}
"""What runs until Ctrl-C, by the end of its command, and the line that it prints once it is ready."""
TROUBLE = re.compile(
    r"command not found|parse error|syntax error|no matches found|Traceback|curl: \(|KeyError|causeloop \w+: "
    r"|UserWarning|(?m:^FAIL  )|make: "
)


def has_json() -> bool:
    """Whether there is a curl that knows --json."""
    if shutil.which("curl") is None:
        return False
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"curl (\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= (7, 82)


def endless(page: str) -> list[str]:
    """The blocks of a page that run until Ctrl-C."""
    return [block for block in blocks(page, "sh") if any(re.search(command, block.strip()) for command in READY)]


def others(page: str) -> str:
    """The other blocks, as they are pasted one after the other."""
    typed = "".join(block for block in blocks(page, "sh") if block not in endless(page))
    assert "sleep" not in typed, "a page waits for what it needs"
    return typed


@asynccontextmanager
async def terminal(shell: str, tree: Path, output: Any, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """An interactive shell, as somebody has it who has set nothing."""
    process = await asyncio.create_subprocess_exec(
        shell,
        *SHELLS[shell],
        "-i",
        cwd=tree,
        env={"PATH": os.environ["PATH"], "HOME": str(tree), "LANG": "C.UTF-8", "HISTFILE": "", **more},
        stdin=asyncio.subprocess.PIPE,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # an interactive shell would fight for the terminal of the tests
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def pasted(shell: str, typed: str, tree: Path, **more: str) -> str:
    """What an interactive shell prints when this is pasted into it."""
    async with asyncio.timeout(120), terminal(shell, tree, asyncio.subprocess.PIPE, **more) as process:
        printed, _ = await process.communicate(typed.encode())
    return without_prompts(printed.decode())


def without_prompts(printed: str) -> str:
    """The lines without what the shell put before them."""
    lines = (line.rstrip().rpartition("\r")[2] for line in printed.split("\n"))
    return "\n".join(re.sub(r"^\S*[#$%] ", "", line) for line in lines)


@asynccontextmanager
async def running(shell: str, block: str, tree: Path) -> AsyncIterator[None]:
    """What a block starts, from its being ready until Ctrl-C."""
    (ready,) = (line for command, line in READY.items() if re.search(command, block.strip()))
    output = tree / "output.txt"
    with output.open("w") as file:
        async with terminal(shell, tree, file, PORT=str(free_port())) as process:
            assert process.stdin is not None
            process.stdin.write(block.encode())

            async def is_ready() -> bool:
                return re.search(ready, without_prompts(output.read_text())) is not None

            await until(f"{block} is ready", is_ready, every=0.1)
            yield
            os.killpg(process.pid, signal.SIGINT)
            process.stdin.close()
            async with asyncio.timeout(30):
                await process.wait()
    assert not TROUBLE.search(output.read_text()), output.read_text()


@pytest.fixture(scope="module")
def new_tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A tree as after `make setup`: the files are links, but those that blocks write beside."""

    def make() -> Path:
        tree = tmp_path_factory.mktemp("tree")
        for name in ("Makefile", "constraints.txt", "pyproject.toml", "libs"):
            (tree / name).symlink_to(ROOT / name)
        (tree / "services").mkdir()
        for service in (ROOT / "services").iterdir():
            if service.name == "auth":
                shutil.copytree(service, tree / "services/auth", ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (tree / "services" / service.name).symlink_to(service)
        (tree / ".venv").mkdir()
        for entry in Path(sys.prefix).iterdir():
            if not entry.name.startswith("."):
                (tree / ".venv" / entry.name).symlink_to(entry)
        (tree / ".venv/.dependencies").write_text(f"{tree}\n")
        (tree / ".venv/.installed").touch()
        return tree

    return make


@pytest.fixture(scope="module", params=HERE)
async def dev(request: pytest.FixtureRequest, new_tree: Callable[[], Path]) -> AsyncIterator[tuple[str, Path]]:
    """A shell, and the tree in which the README's first block, pasted into it, runs everything."""
    tree = new_tree()
    (block,) = endless("README.md")
    async with running(request.param, block, tree):
        yield request.param, tree
    assert not (tree / ".causeloop/dev.json").exists()


@asynccontextmanager
async def of_bob(addresses: dict[str, Any]) -> AsyncIterator[AsyncClient]:
    """A client of the person whom the README signs in, in the workspace that it makes."""
    async with httpx.AsyncClient(trust_env=False) as http:
        session = (await http.post(f"{addresses['issuer_url']}/v1/sessions", json={"subject": "bob"})).json()
        client = AsyncClient(addresses["gateway_url"], http=http)
        realm = await client.send(Exchange(subject_token=session["token"]))
        client.token = realm["access_token"]
        (mine,) = [one async for one in client.items(ListMyWorkspaces())]
        moved = await client.send(Refresh(refresh_token=realm["refresh_token"], workspace_id=mine["workspace_id"]))
        client.token = moved["access_token"]
        yield client


def shown(page: str, printed: str) -> None:
    """Check what a page printed."""
    assert not TROUBLE.search(printed), printed
    place = 0
    for pattern in SHOWN[page]:
        found = re.compile(pattern).search(printed, place)
        assert found is not None, (pattern, printed)
        place = found.end()


class TestEveryBlock:
    @pytest.mark.parametrize("page", PAGES)
    def test_has_no_comment_and_no_exclamation_mark(self, page: str) -> None:
        """F3: an interactive zsh runs comments, and interactive shells replace what follows an exclamation mark."""
        for block in blocks(page, "sh"):
            assert not re.search(r"(?m)(^|\s)#", block), block
            assert "!" not in block, block

    @pytest.mark.parametrize("shell", HERE)
    @pytest.mark.parametrize("page", PAGES)
    def test_is_good_syntax(self, shell: str, page: str) -> None:
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
    async def test_the_readme_walks_from_a_stranger_to_a_revoked_token(self, dev: tuple[str, Path]) -> None:
        """F3, F4: the README pasted whole, whose log has each act that it names."""
        shell, tree = dev
        shown("README.md", await pasted(shell, others("README.md"), tree))

        sentence = text("README.md").partition("The log names")[2].partition("each with")[0]
        named = set(re.findall(r"`(\w+\.\w+)`", sentence))
        assert len(named) == 6
        async with of_bob(json.loads((tree / ".causeloop/dev.json").read_text())) as client:

            async def recorded() -> bool:
                return named <= {entry["action"] async for entry in client.items(ListEvents())}

            await until("the log has the acts that the page names", recorded)

    @pytest.mark.parametrize("page", [page for page in PAGES if page not in ("README.md", "docs/observability.md")])
    async def test_another_page_runs_beside_what_the_readme_started(
        self, dev: tuple[str, Path], page: str, servers: Servers
    ) -> None:
        """F5: one token and one address on every page, and no command before the permission that it needs."""
        shell, tree = dev
        own = {"MIGRATOR_URL": servers.database_url, "ROOT_SECRET": servers.jwt_secret}
        shown(page, await pasted(shell, others(page), tree, **own))
        for block in endless(page):
            async with running(shell, block, tree):
                pass

    @pytest.mark.parametrize("shell", HERE)
    async def test_the_page_on_observability_runs_beside_what_it_starts(
        self, shell: str, new_tree: Callable[[], Path]
    ) -> None:
        tree = new_tree()
        (block,) = endless("docs/observability.md")
        async with running(shell, block, tree):
            shown("docs/observability.md", await pasted(shell, others("docs/observability.md"), tree))


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
