"""The gateway of a command, and the token: from options, the environment, or a `causeloop dev` that runs here.

    --url, else the running dev's gateway
    CAUSELOOP_TOKEN, else --token-file (- for standard input), else, at the dev's own gateway, its owner's token

A token is never an argument: those are in the shell's history and in everybody's list of processes.
"""

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from causeloop_cli import running_dev
from causeloop_client import Client
from causeloop_common.settings import SettingsError

TOKEN = "CAUSELOOP_TOKEN"  # noqa: S105  a variable's name


def gateway(options: argparse.Namespace) -> Client:
    """A client of the gateway; SettingsError with what is missing."""
    dev = running_dev.running(Path(running_dev.NAME))
    url = options.url or dev.get("gateway_url", "")
    if not url:
        raise SettingsError("Give the gateway's address with --url: no `causeloop dev` runs in this folder.")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise SettingsError("--url is not an http or https address, such as https://causeloop.example.com.")
    token = os.environ.get(TOKEN) or (_read(options.token_file) if options.token_file else "")
    if not token and url == dev.get("gateway_url"):  # a dev's token is for the dev alone
        token = dev.get("tokens", {}).get("owner", "")
    if not token or not token.isascii() or not token.isprintable():
        raise SettingsError(f"Give a token in {TOKEN} or in a file with --token-file.")
    return Client(url, token)


def _read(name: str) -> str:
    try:
        text = sys.stdin.readline() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The token cannot be read from {name}: {type(error).__name__}.") from error
    return text.strip()
