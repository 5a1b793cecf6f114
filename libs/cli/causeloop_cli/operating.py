"""The operator's commands on the bus have one credential, one connection, and the same sentences for its faults.

The credential is NATS_URL and NATS_NKEY_SEED_OPERATOR, else that of the `causeloop dev` that runs in this folder.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import nats.js.errors
from nats.js import JetStreamContext

from causeloop_cli import loops, running_dev, streams
from causeloop_common.contracts.topology import OPERATOR
from causeloop_common.settings import SettingsError


def run(act: Callable[[JetStreamContext], Awaitable[int | None]]) -> int:
    """Act with the operator's credential; the exit code. SettingsError when the bus does not let it in, or lacks a
    stream.
    """
    environ = credential(os.environ, Path(running_dev.NAME))
    try:
        return loops.run(_act(act, environ["NATS_URL"], environ["NATS_NKEY_SEED_OPERATOR"])) or 0
    except nats.js.errors.NotFoundError as error:
        raise SettingsError("There is no such stream or consumer. Run `causeloop migrate`.") from error
    except streams.FAULTS as error:
        raise SettingsError(streams.refusal(error)) from error


def credential(environ: Mapping[str, str], folder: Path) -> Mapping[str, str]:
    """The environment with the operator's address and seed; SettingsError without them."""
    if not environ.get("NATS_URL") and running_dev.running(folder):
        environ = running_dev.read(folder, "environ.json").get(OPERATOR, {})
    if not environ.get("NATS_URL") or not environ.get("NATS_NKEY_SEED_OPERATOR"):
        raise SettingsError("Set NATS_URL and NATS_NKEY_SEED_OPERATOR, or run this in the folder of a `causeloop dev`.")
    return environ


async def _act(act: Callable[[JetStreamContext], Awaitable[int | None]], url: str, seed: str) -> int | None:
    client = await streams.connect(url, OPERATOR, seed)
    try:
        return await act(client.jetstream(timeout=5))
    finally:
        await client.close()
