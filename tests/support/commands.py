"""The `causeloop` command as an operator runs it: an environment of its own, and an end in bounded time."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    command: str
    code: int
    output: str
    errors: str

    def refusal(self) -> str:
        """The sentence with which it refused; asserts that there is nothing else, and no traceback."""
        assert "Traceback" not in self.errors + self.output, self.errors
        assert self.code == (1 if self.command == "migrate" else 2), (self.code, self.output, self.errors)
        lines = self.errors.strip().splitlines()
        assert len(lines) == 1, self.errors
        assert len(lines[0]) < 1500
        return lines[0]


SECONDS = 60


async def causeloop(*arguments: str, **environ: str) -> Done:
    """Run the command with these variables and no others of ours."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "causeloop_cli",
        *arguments,
        env=kept | {"PYTHONFAULTHANDLER": "1"} | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ending = asyncio.ensure_future(process.communicate())
    try:
        await asyncio.wait([ending], timeout=SECONDS)
    finally:
        stands = not ending.done()
        if stands:
            process.send_signal(signal.SIGABRT)  # so that it writes what its threads do
        output, errors = await ending
    assert not stands, f"It did not end within {SECONDS} s.\n{output.decode()}\n{errors.decode()}"
    return Done(arguments[0], process.returncode or 0, output.decode(), errors.decode())
