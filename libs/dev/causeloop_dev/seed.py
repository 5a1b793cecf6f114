"""The demo workspace of `causeloop dev`, made as any client would make it: over HTTP, signed in as a person.

    session of `alice` ─► exchange ─► create "Demo" ─► refresh into it ─► tokens by role ─► put and reveal one secret

Each step finds what an earlier start made, so that a lasting data folder keeps its workspace and its tokens: the
workspace by its Idempotency-Key, the tokens in a 0600 file of that folder, since a token's secret is shown only once.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causeloop_cli.embedded.process import ServerFailed
from causeloop_cli.running_dev import read
from causeloop_common.permissions import ROLES, Permission
from causeloop_dev.folder import write_private_json
from causeloop_dev.local_http import ask

PERSON = "alice"
SECRET_PATH = "demo/greeting"  # noqa: S105  where it is, not what it is
_SECRET_VALUE = "Hello from Causeloop."  # noqa: S105  a greeting
_KEY = "causeloop-dev-demo-workspace"
_PATIENCE_SECONDS = 15.0

SCOPES: dict[str, frozenset[str]] = {
    "owner": ROLES["owner"],
    "viewer": frozenset({Permission.WORKSPACE_READ, Permission.SECRETS_READ, Permission.AUDIT_READ}),
}
"""The personal access tokens that are made, by name: what each may do."""


@dataclass(frozen=True)
class Demo:
    """The workspace, and its tokens by role."""

    workspace_id: str
    tokens: dict[str, str]


def workspace(gateway_url: str, issuer_url: str, keep: Path | None) -> Demo:
    """Make or find the demo; `keep` is the file that remembers its tokens, None for throw-away data."""
    signed_in = _do("POST", f"{issuer_url}/v1/sessions", {"subject": PERSON, "ttl_seconds": 60}, expect={200})
    api = f"{gateway_url}/v1"
    grant = _do("POST", f"{api}/auth/exchange", {"subject_token": signed_in["token"]}, expect={200})
    named = {"name": "Demo", "slug": "demo"}
    made = _do("POST", f"{api}/workspaces", named, token=grant["access_token"], key=_KEY, expect={201})
    workspace_id = made["id"]
    moved = {"refresh_token": grant["refresh_token"], "workspace_id": workspace_id}
    grant = _do("POST", f"{api}/auth/refresh", moved, expect={200})

    tokens = _kept(keep, workspace_id, api)
    for role, scopes in SCOPES.items():
        if role not in tokens:
            wanted = {"name": f"causeloop dev: {role}", "scopes": sorted(scopes), "expires_in_days": 365}
            token = _do("POST", f"{api}/api-tokens", wanted, token=grant["access_token"], expect={201})
            tokens[role] = token["token"]
    if keep is not None:
        write_private_json(keep, {"workspace_id": workspace_id, "tokens": tokens})

    secret, new_only = f"{api}/secrets/{SECRET_PATH}", {"value": _SECRET_VALUE, "version": 0}
    _do("PUT", secret, new_only, token=tokens["owner"], expect={200, 409})
    _do("POST", f"{secret}/reveal", {}, token=tokens["owner"], expect={200})
    return Demo(workspace_id, tokens)


def _kept(keep: Path | None, workspace_id: str, api: str) -> dict[str, str]:
    """The tokens of an earlier start that are still good."""
    told = read(keep.parent, keep.name) if keep else {}
    if told.get("workspace_id") != workspace_id:
        return {}
    good = {}
    for role, token in told.get("tokens", {}).items():
        answer = ask("GET", f"{api}/workspace", token=token)
        if answer is not None and answer.status == 200:
            good[role] = token
    return good


def _do(method: str, url: str, body: Any, *, expect: Collection[int], token: str = "", key: str = "") -> Any:
    """The answer's body; what passes is waited out, anything else is told."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        answer = ask(method, url, body, token=token, key=key)
        if answer is not None and answer.status in expect:
            return answer.body
        if (answer is not None and answer.status not in (429, 503, 504)) or time.monotonic() > deadline:
            told = "no answer" if answer is None else f"{answer.status} {(answer.body or {}).get('detail', '')}"
            raise ServerFailed(
                f"The demo workspace could not be made: {method} {url} gave {told.strip()}. The logs are in "
                ".causeloop/logs; start with --no-seed to go on without it."
            )
        time.sleep(0.2)
