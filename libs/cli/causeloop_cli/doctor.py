"""`causeloop doctor`: the checks of every service's start, made at once and printed line by line.

For each service, as that service: its database role gets in and the isolation proof holds (the very proof of its
start), so do its other roles, the bus lets it in, the master key opens the database, the log has receipted its acts,
and the identity provider's keys can be fetched. Then the logs, streams and consumers against the contracts, and every
table that may change without an audit event, with the reason. A check that cannot look fails. The processes that run
are not asked: their `/ready` has what they remember of their work.

The settings come from the environment; without a database there, from the `causeloop dev` that runs in this folder.
"""

import argparse
import asyncio
import logging
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from causeloop_cli import loops, running_dev, services, streams
from causeloop_common import rls
from causeloop_common.contracts.topology import OPERATOR, OWNERS, SERVICES, readers
from causeloop_common.database import look_at, role_connections
from causeloop_common.errors import AppError
from causeloop_common.settings import Settings, SettingsError

FINE = {
    "bus": "The bus lets it in, permits every subject that it needs, and leads what it sends to the streams.",
    "permissions": "The bus permits every subject that it needs.",
    "database": "The database lets it in, under its own role.",
    "clock": "This host's clock is the database's, within 2 s.",
    "postgres": "It accepts writes, and its version has no known hole.",
    "isolation": "Roles, policies, grants and guards are as declared, tables as migrated; no tenant, no rows.",
    "master_key": "The master key opens this database's keys.",
    "identity": "Its keys can be fetched.",
    "server": "Its version and `max_payload` are as needed.",
    "stream": "As declared.",
    "space": "Less than 70 % of it is used.",
    "dead": "None.",
    "consumer": "As declared.",
    "role": "The database lets it in.",
    "logs": "Not many have lost their end.",
    "witness": "Every log continues what the vault signed of it.",
    "receipts": "The log has receipted every act of ten minutes ago, and no row is set aside.",
}
"""The sentence for a check that holds, by the first word of its name."""


class Finding(NamedTuple):
    """One line: the service or the bus, the check, and 'ok' or what is wrong."""

    about: str
    check: str
    result: str


def main(options: argparse.Namespace) -> int:
    """Print a line for each check; 1 when one fails."""
    logging.getLogger().addHandler(logging.NullHandler())  # the lines below are the report
    environs, origin = environments(os.environ, Path(running_dev.NAME))
    print(f"Settings from {origin}.\n")
    findings = loops.run(examine(environs))
    about, check = (max(len(finding[column]) for finding in findings) for column in (0, 1))
    for finding in findings:
        fine = finding.result == "ok"
        sentence = FINE.get(finding.check.split()[0], "It holds.") if fine else " ".join(finding.result.split())
        print(f"{'ok  ' if fine else 'FAIL'}  {finding.about:<{about}}  {finding.check:<{check}}  {sentence}")
    print("\nTables that may change without an audit event, and why:\n")
    for name, reason in unaudited():
        print(textwrap.fill(reason, 118, initial_indent=f"{name:<26}", subsequent_indent=" " * 26))
    failed = sum(finding.result != "ok" for finding in findings)
    print(f"\n{failed} of {len(findings)} checks failed." if failed else f"\nAll {len(findings)} checks hold.")
    return 1 if failed else 0


def environments(environ: Mapping[str, str], folder: Path) -> tuple[dict[str, Mapping[str, str]], str]:
    """The environment of each service that can be examined, and where it comes from."""
    if environ.get("DATABASE_URL"):
        return dict.fromkeys((*SERVICES, OPERATOR), environ), "the environment"
    own = [name for name in SERVICES if environ.get(f"CAUSELOOP_KEYS_{name.upper()}")]
    if own:
        return dict.fromkeys((*own, OPERATOR), environ), f"the environment, which has keys for {', '.join(own)}"
    if running_dev.running(folder) and (environs := running_dev.read(folder, "environ.json")):
        return environs, f"the `causeloop dev` that runs in {folder.absolute().parent}"
    raise SettingsError(
        "There is nothing to examine. Set DATABASE_URL and what else the services need, or run this in the folder of "
        "a running `causeloop dev`."
    )


async def examine(environs: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """All findings, services first, the bus last."""
    asked = [_service(name, environs[name]) for name in SERVICES if name in environs]
    found = await asyncio.gather(*asked, _bus(environs))
    return [finding for findings in found for finding in findings]


def unaudited() -> list[tuple[str, str]]:
    """Every table without a commit guard, and the reason."""
    return [table for owner in OWNERS for table in rls.unaudited(services.tables(owner))]


async def _service(name: str, environ: Mapping[str, str]) -> list[Finding]:
    try:
        application = services.create(name, environ)
    except SettingsError as error:
        return [Finding(name, "settings", str(error))]
    checks = await application.examine()
    if name in OWNERS:
        own, *others = rls.roles(services.tables(name))
        for role in others:
            checks[f"role {role.removeprefix(f'{own}_')}"] = await _lets_in(role, application.settings)
    return [Finding(name, check, result) for check, result in checks.items()]


async def _lets_in(role: str, settings: Settings) -> str:
    try:
        connections = role_connections(settings.dsn(role), role, size=1)
        try:
            await look_at(role, connections)
        finally:
            await connections.close(1)
    except AppError as error:
        return error.detail
    except SettingsError as error:
        return str(error)
    return "ok"


async def _bus(environs: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Streams and consumers, as the operator if its credential is here, else as the services that have consumers."""
    seeds = {name: environs.get(name, {}).get(f"NATS_NKEY_SEED_{name.upper()}") for name in (OPERATOR, *readers())}
    found: dict[str, str] = {}
    for name in [OPERATOR] if seeds[OPERATOR] else readers():
        if (seed := seeds[name]) is None:
            continue
        url = environs[name].get("NATS_URL", "")
        try:
            seen = await asyncio.wait_for(streams.differences(url, name, seed), timeout=20)
        except SettingsError as error:
            return [Finding(name, "bus", str(error))]
        except streams.FAULTS as error:
            return [Finding(name, "bus", streams.refusal(error))]
        found |= {check: result for check, result in seen.items() if found.get(check, "ok") == "ok"}
    if found:
        return [Finding("bus", check, result) for check, result in found.items()]
    return [Finding("bus", "streams", "Set NATS_NKEY_SEED_OPERATOR, so that streams and consumers can be compared.")]
