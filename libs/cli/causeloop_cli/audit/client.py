"""Where the gateway is and who asks: from options, the environment, or a `causeloop dev` that runs here.

    --url, else the running dev's gateway
    CAUSELOOP_TOKEN, else --token-file (- for standard input), else, at the dev's own gateway, its owner's token

A token is never an argument: those are in the shell's history and in everybody's list of processes.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from causeloop_cli import running_dev
from causeloop_common.errors import AppError, Unavailable
from causeloop_common.settings import SettingsError
from causeloop_log.files import LARGEST

TOKEN = "CAUSELOOP_TOKEN"  # noqa: S105  a variable's name


class Gateway(NamedTuple):
    """A gateway's address without a slash at the end, and the token to call it with."""

    url: str
    token: str


def gateway(options: argparse.Namespace) -> Gateway:
    """The gateway to ask; SettingsError with what is missing."""
    dev = running_dev.running(Path(running_dev.NAME))
    url = options.url or dev.get("gateway_url", "")
    if not url:
        raise SettingsError("Say where the gateway is with --url: no `causeloop dev` runs in this folder.")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise SettingsError("--url is not an http or https address, such as https://causeloop.example.com.")
    token = os.environ.get(TOKEN) or (_read(options.token_file) if options.token_file else "")
    if not token and url == dev.get("gateway_url"):  # a dev's token is for the dev alone
        token = dev.get("tokens", {}).get("owner", "")
    if not token or not token.isascii() or not token.isprintable():
        raise SettingsError(f"Give a token in {TOKEN} or in a file with --token-file.")
    return Gateway(url.rstrip("/"), token)


def ask(gateway: Gateway, path: str) -> str:
    """The answer's text, of a route that has one; AppError with what the gateway says against it."""
    headers = {"authorization": f"Bearer {gateway.token}", "accept": "text/plain"}
    try:
        with httpx.stream("GET", f"{gateway.url}/v1{path}", headers=headers, timeout=30) as answer:
            if answer.status_code != 200:
                raise refusal(answer)
            body = b""
            for part in answer.iter_bytes():
                body += part
                if len(body) > LARGEST:
                    raise Unavailable(f"{gateway.url} sends more than belongs there.")
            return body.decode(errors="replace")
    except httpx.TransportError as error:
        raise Unavailable(f"Nobody answers at {gateway.url}: {type(error).__name__}.") from error


def refusal(answer: httpx.Response) -> AppError:
    """What a gateway says against a request; its body need not be read yet."""
    try:
        told = json.loads(answer.read())
        return AppError.from_wire(str(told["code"]), str(told["detail"]), told.get("errors"), None)
    except (ValueError, TypeError, KeyError):
        return Unavailable(f"The gateway answered {answer.status_code}, and not as a gateway does.")


def _read(name: str) -> str:
    try:
        text = sys.stdin.readline() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The token cannot be read from {name}: {type(error).__name__}.") from error
    return text.strip()
