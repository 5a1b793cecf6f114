"""`causeloop schemas`: every message and route as documents, written from the code that answers them.

    docs/schemas/<owner>.json     each command and event of an owner: subject, permission, JSON Schema
    docs/openapi.json             the HTTP interface
    docs/asyncapi.json            the messages as AsyncAPI 3.0, with the streams they are kept in
    docs/personal-data.md         the personal data in messages and tables
    libs/client/…/calls.py        the client's calls and replies

The documents are committed: a change to a contract shows as a change to them, and `--check` fails until somebody has
seen it.
"""

import argparse
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from causeloop_common.contracts import topology
from causeloop_common.contracts.base import Command, Event, Job, commands, events, jobs
from causeloop_dev import client_calls, personal_data
from causeloop_gateway.documents import asyncapi, openapi

DOCS = Path("docs")
CALLS = Path("libs/client/causeloop_client/calls.py")


def main(options: argparse.Namespace) -> int:
    """Write the documents below the current directory, or compare them."""
    wanted = documents()
    if options.check:
        return _check(wanted)
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in _stray(wanted):
        path.unlink()
    print(f"Wrote {', '.join(map(str, wanted))}.")
    return 0


def documents() -> dict[Path, str]:
    """Every document by its path."""
    made = {DOCS / "schemas" / f"{name}.json": of_owner(name, owner) for name, owner in topology.ANNOUNCERS.items()}
    interface = openapi.document()
    made |= {DOCS / "openapi.json": interface, DOCS / "asyncapi.json": asyncapi.document()}
    texts = {path: _text(content) for path, content in made.items()}
    return {**texts, DOCS / "personal-data.md": personal_data.page(), CALLS: client_calls.module(interface)}


def of_owner(name: str, owner: ModuleType) -> dict[str, Any]:
    """The commands, events and jobs of one owner."""
    return {
        "owner": name,
        "commands": {kind.__name__: _command(kind) for kind in commands(owner)},
        "events": {kind.__name__: _event(kind) for kind in events(owner)},
        "jobs": {kind.__name__: _job(kind) for kind in jobs(owner)},
        "retired": sorted(owner.RETIRED),
    }


def _command(kind: type[Command[Any]]) -> dict[str, Any]:
    return {
        "subject": kind.subject,
        "permission": str(kind.permission),
        "issuers": sorted(kind.issuers),
        "keyed": kind.keyed,
        "timeout_seconds": kind.timeout,
        "message": kind.model_json_schema(),
        "reply": kind.reply.model_json_schema(mode="serialization"),
    }


def _event(kind: type[Event]) -> dict[str, Any]:
    return {
        "type": kind.type,
        "subject": f"evt.<tenant>.{kind.type}",
        "target": kind.target,
        "message": kind.model_json_schema(mode="serialization"),
    }


def _job(kind: type[Job]) -> dict[str, Any]:
    return {
        "kind": kind.kind,
        "permission": str(kind.permission),
        "attempts": kind.attempts,
        "message": kind.model_json_schema(),
    }


def _check(wanted: dict[Path, str]) -> int:
    missing = [path for path in wanted if not path.exists()]
    differing = [path for path, text in wanted.items() if path.exists() and path.read_text(encoding="utf-8") != text]
    problems = {"is missing": missing, "differs from the code": differing, "belongs to nobody": _stray(wanted)}
    for what, paths in problems.items():
        for path in paths:
            print(f"{path} {what}.")
    if any(problems.values()):
        print("Run `make schemas`, look at what changed, and commit it.")
        return 1
    return 0


def _stray(wanted: dict[Path, str]) -> list[Path]:
    return sorted(path for path in (DOCS / "schemas").glob("*.json") if path not in wanted)


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
