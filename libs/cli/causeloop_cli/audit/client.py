"""The gateway of a command, and the token: from options, the environment, or a `causeloop dev` that runs here.

    --url, else CAUSELOOP_URL, else the running dev's gateway
    CAUSELOOP_TOKEN, else --token-file (- for standard input), else, at the dev's own gateway, its owner's token

A token is never an argument: those are in the shell's history and in everybody's list of processes.
"""

import argparse
import os
from pathlib import Path

from causeloop_cli import running_dev
from causeloop_client import Client
from causeloop_common.settings import SettingsError
from causeloop_log import files

URL = "CAUSELOOP_URL"
TOKEN = "CAUSELOOP_TOKEN"  # noqa: S105  a variable's name
_LONGEST = 16_384


def gateway(options: argparse.Namespace) -> Client:
    """A client of the gateway; SettingsError with what is missing or cannot be used."""
    dev = running_dev.running(Path(running_dev.NAME))
    own = str(dev.get("gateway_url", ""))
    source = "--url" if options.url else URL
    url = options.url or os.environ.get(URL, "") or own
    if not url:
        raise SettingsError(
            f"Give the gateway's address in {URL} or with --url, such as https://causeloop.example.com: no `causeloop "
            "dev` runs in this folder."
        )
    try:
        found = Client(url)
    except ValueError as error:
        raise SettingsError(f"{source}: {error}") from error
    token = os.environ.get(TOKEN) or (_read(options.token_file) if options.token_file else "")
    if not token and url.rstrip("/") == own:  # a dev's token is for the dev alone
        token = str(dev.get("tokens", {}).get("owner", ""))
    if not token:
        raise SettingsError(f"Give a token in {TOKEN} or in a file with --token-file.")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"The token in {TOKEN} or --token-file is none: it has a character that no token has.")
    found.token = token
    return found


def _read(name: str) -> str:
    """The first line of a file, such as a token that somebody types."""
    with files.opened(name) as file:
        return file.readline(_LONGEST).decode(errors="replace").strip()
