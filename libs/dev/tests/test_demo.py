"""`causeloop demo` as a person runs it: beside a whole `causeloop dev`, and without one."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from causeloop_cli.running_dev import running
from causeloop_dev.demo import page
from tests.support.ports import free_port

README = Path(__file__).parents[3] / "README.md"
BEGINNING = 42
"""Columns of a line that are the same each time."""

HEADINGS = (
    "Sign in", "A workspace", "A token with few scopes", "A secret", "A named key", "The stream, cut off",
    "The log, proven", "Revocation", "What was shown",
)  # fmt: skip


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "causeloop_cli", *words]


def demo(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command("demo"), cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a dev without a demo workspace runs: the journey needs none."""
    with subprocess.Popen(
        command("dev", "--no-seed", "--port", str(free_port())), cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as dev:
        assert dev.stdout is not None
        assert any("Causeloop is ready" in line for line in dev.stdout)
        yield tmp_path
        dev.send_signal(signal.SIGTERM)


class TestDemo:
    def test_walks_the_whole_journey_and_shows_no_token(self, folder: Path) -> None:
        assert running(folder / ".causeloop")
        done = demo(folder)

        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        assert re.findall(r"(?m)^(\d)  (.+)$", done.stdout) == [(str(n), found) for n, found in enumerate(HEADINGS, 1)]
        assert re.findall(r"REFUSED  by step (\d)", done.stdout) == ["5", "4", "2", "6"]
        assert "201 replayed" in done.stdout
        assert "resumed exactly" in done.stdout
        assert not re.search(r"eyJ|[A-Za-z0-9_.-]{65,}", done.stdout.replace("log/ws_", "log ws_"))
        assert "\033" not in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= page.WIDTH
        shown = README.read_text().partition("make demo\n```\n\n```\n")[2].partition("```")[0].splitlines()
        assert len(shown) > 8
        printed = {line[:BEGINNING].rstrip() for line in done.stdout.splitlines()}
        assert {line[:BEGINNING].rstrip() for line in shown} <= printed

    def test_without_a_dev_says_what_to_do(self, tmp_path: Path) -> None:
        done = demo(tmp_path)

        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr == (
            "causeloop demo: no `causeloop dev` runs in this folder: run `make dev` in another terminal, then this.\n"
        )
