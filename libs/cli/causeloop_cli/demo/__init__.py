"""`causeloop demo`: the whole journey of a new person against the `causeloop dev` that runs in this folder.

    sign-in ─► workspace ─► token ─► secret ─► named key ─► stream cut and resumed ─► log proven ─► token revoked

Over HTTP alone, as any client, with throw-away names: it changes nothing that was there. Each line is something that
was done just now and came back as it should; the first that does not ends the demo with what came instead.
"""

import argparse
import sys
from pathlib import Path

import httpx

from causeloop_cli import dev_folder
from causeloop_cli.audit.verification import Refused
from causeloop_cli.demo import journey
from causeloop_cli.demo.page import Page
from causeloop_cli.demo.person import Unexpected
from causeloop_common.errors import AppError
from causeloop_common.settings import SettingsError


def main(_: argparse.Namespace) -> int:
    """0 when everything was as promised; 1 and what was not."""
    dev = dev_folder.running(Path(dev_folder.NAME))
    if not dev:
        raise SettingsError("no `causeloop dev` runs in this folder: run `make dev` in another terminal, then this.")
    page = Page(sys.stdout)
    try:
        journey.run(page, dev["gateway_url"], dev["issuer_url"])
    except Unexpected as unexpected:
        page.failed(unexpected.expected, unexpected.came)
    except Refused as refused:
        page.failed("every step of the verification holds", str(refused))
    except AppError as error:
        page.failed("the gateway answers", f"{error.code}: {error.detail}")
    except httpx.TransportError as error:
        page.failed("the gateway answers", type(error).__name__)
    else:
        return 0
    return 1
