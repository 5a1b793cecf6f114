"""The lines that `causeloop dev` prints when it is ready: where things are, and commands to copy that really work."""

import os
import sys

from causeloop_dev.seed import PERSON, Demo

_JSON = "-H 'Content-Type: application/json'"
_READ_TOKEN = r"""export CAUSELOOP_TOKEN=$(sed -n 's/.*"owner": "\(.*\)".*/\1/p' .causeloop/dev.json)"""  # noqa: S105  a line of shell


def text(gateway_url: str, issuer_url: str, demo: Demo | None, *, data: str | None, seconds: float) -> str:
    """The text. Tokens are not in it: the lines read them from dev.json."""
    bold, dim, plain = ("\033[1m", "\033[2m", "\033[0m") if _in_color() else ("", "", "")
    kept = f"Data is kept in {data}." if data else "Data is throw-away; DATA=folder keeps it."
    facts = [
        ("API", f"{gateway_url}/v1"),
        ("Docs", f"{gateway_url}/docs"),
        ("Sign-in", f"{issuer_url}  mock: anybody can be anybody, so for development only"),
        ("Workspace", f"{demo.workspace_id}  Demo, owned by alice" if demo else "none (--no-seed)"),
        ("Files", ".causeloop/dev.json  addresses and tokens; .causeloop/logs"),
    ]
    lines = ["", f"  {bold}Causeloop is ready{plain} {dim}in {seconds:.1f} s{plain}", ""]
    lines += [f"  {dim}{name:<10}{plain}{fact}" for name, fact in facts]
    lines += ["", f"  {bold}Try{plain}", ""]
    lines += [f"    {line}" for line in (_with_token(gateway_url) if demo else _signing_in(gateway_url, issuer_url))]
    if demo:
        lines += ["", f"  {bold}Sign in as a person{plain} {dim}to create workspaces and tokens{plain}", ""]
        lines += [f"    {line}" for line in _as_person(gateway_url, issuer_url, demo.workspace_id)]
    lines += ["", f"  {dim}{kept} Ctrl-C stops everything.{plain}", ""]
    return "\n".join(lines)


def _with_token(gateway_url: str) -> list[str]:
    as_owner = '-H "Authorization: Bearer $CAUSELOOP_TOKEN"'
    return [
        _READ_TOKEN,
        f'curl -sw "\\n" -X PUT {gateway_url}/v1/secrets/hello {as_owner} {_JSON} -d \'{{"value": "world"}}\'',
        f"curl -sw '\\n' -X POST {gateway_url}/v1/secrets/hello/reveal {as_owner}",
        f"curl -sw '\\n' '{gateway_url}/v1/audit/events?limit=5' {as_owner}",
    ]


def _session(issuer_url: str) -> str:
    return f"""SESSION=$(curl -s {issuer_url}/v1/sessions {_JSON} -d '{{"subject": "{PERSON}"}}' | cut -d'"' -f4)"""


def _as_person(gateway_url: str, issuer_url: str, workspace_id: str) -> list[str]:
    body = f"""-d '{{"subject_token": "'$SESSION'", "workspace_id": "{workspace_id}"}}'"""
    found = r"""sed 's/.*"access_token": *"\([^"]*\)".*/\1/'"""
    return [
        _session(issuer_url),
        f"ACCESS_TOKEN=$(curl -s {gateway_url}/v1/auth/exchange {_JSON} {body} | {found})",
        f"""curl -sw '\\n' {gateway_url}/v1/me/workspaces -H "Authorization: Bearer $ACCESS_TOKEN\"""",
    ]


def _signing_in(gateway_url: str, issuer_url: str) -> list[str]:
    return [
        _session(issuer_url),
        f"""curl -sw '\\n' {gateway_url}/v1/auth/exchange {_JSON} -d '{{"subject_token": "'$SESSION'"}}'""",
    ]


def _in_color() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
