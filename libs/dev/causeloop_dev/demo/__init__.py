"""`causeloop demo`: the whole journey of a new person against the `causeloop dev` that runs in this folder.

    sign-in ─► workspace ─► token ─► secret ─► named key ─► stream cut and resumed ─► log proven ─► token revoked

Over HTTP alone, as any client, with throw-away names: it changes nothing that was there. Each line is something that
was done just now and came back as it should; the first that does not ends the demo with what came instead.
"""

import argparse
import sys
from pathlib import Path

import httpx

from causeloop_cli import running_dev
from causeloop_client import ClientError
from causeloop_common.settings import SettingsError
from causeloop_dev.demo import journey
from causeloop_dev.demo.page import Page, Unexpected
from causeloop_log.verification import Refused


def main(_: argparse.Namespace) -> int:
    """0 when everything was as promised; 1 and what was not."""
    dev = running_dev.running(Path(running_dev.NAME))
    if not dev:
        raise SettingsError("no `causeloop dev` runs in this folder: run `make dev` in another terminal, then this.")
    page = Page(sys.stdout)
    try:
        journey.run(page, dev["gateway_url"], dev["issuer_url"])
    except Unexpected as unexpected:
        page.failed(unexpected.expected, unexpected.came)
    except Refused as refused:
        page.failed("every step of the verification holds", str(refused))
    except (ClientError, httpx.HTTPError) as error:  # the second is of the issuer
        page.failed("everything is answered", f"{type(error).__name__}: {error}")
    else:
        return 0
    return 1
