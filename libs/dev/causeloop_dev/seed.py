"""The demo workspace of `causeloop dev`, made as any client would make it: over HTTP, signed in as a person.

    session of `alice` ─► exchange ─► create "Demo" ─► refresh into it ─► tokens by role ─► put and reveal one secret

Each step finds what an earlier start made, so that a lasting data folder keeps its workspace and its tokens: the
workspace by its Idempotency-Key, the tokens in a 0600 file of that folder, since a token's secret is shown only once.
"""

from dataclasses import dataclass
from pathlib import Path

import httpx

from causeloop_cli.embedded.process import ServerFailed
from causeloop_cli.running_dev import read
from causeloop_client import Client, ClientError, Problem, calls
from causeloop_common.permissions import ROLES, Permission
from causeloop_dev.folder import write_private_json

PERSON = "alice"
SECRET_PATH = "demo/greeting"  # noqa: S105  where it is, not what it is
_SECRET_VALUE = "Hello from Causeloop."  # noqa: S105  a greeting
_KEY = "causeloop-dev-demo-workspace"
_PATIENCE_SECONDS = 15.0

SCOPES: dict[str, frozenset[str]] = {
    "owner": ROLES["owner"],
    "viewer": frozenset({Permission.WORKSPACE_READ, Permission.SECRETS_READ, Permission.AUDIT_READ}),
}
"""The personal access tokens that are made, by name, with the scopes of each."""


@dataclass(frozen=True)
class Demo:
    """The workspace, and its tokens by role."""

    workspace_id: str
    tokens: dict[str, str]


def workspace(http: httpx.Client, gateway_url: str, issuer_url: str, keep: Path | None) -> Demo:
    """Make or find the demo; `keep` is the file that remembers its tokens, None for throw-away data."""
    client = Client(gateway_url, patience=_PATIENCE_SECONDS, http=http)
    try:
        return _workspace(client, sign_in(client, http, issuer_url, PERSON), keep)
    except (ClientError, httpx.HTTPError) as error:
        raise ServerFailed(
            f"The demo workspace could not be made: {error} The logs are in .causeloop/logs; start with --no-seed to "
            "go on without it."
        ) from error


def sign_in(client: Client, http: httpx.Client, issuer_url: str, subject: str) -> calls.Grant:
    """A session of the mock issuer, exchanged; from now on the client asks as this person, in their own realm."""
    session = http.post(f"{issuer_url}/v1/sessions", json={"subject": subject, "ttl_seconds": 60}).raise_for_status()
    grant = client.send(calls.Exchange(subject_token=session.json()["token"]))
    client.token = grant["access_token"]
    return grant


def _workspace(client: Client, grant: calls.Grant, keep: Path | None) -> Demo:
    workspace_id = client.send(calls.CreateWorkspace(name="Demo", slug="demo"), key=_KEY)["id"]
    grant = client.send(calls.Refresh(refresh_token=grant["refresh_token"], workspace_id=workspace_id))
    tokens = _kept(client, keep, workspace_id)
    client.token = grant["access_token"]
    for role, scopes in SCOPES.items():
        if role not in tokens:
            wanted = calls.CreateApiToken(name=f"causeloop dev: {role}", scopes=sorted(scopes), expires_in_days=365)
            tokens[role] = client.send(wanted)["token"]
    if keep is not None:
        write_private_json(keep, {"workspace_id": workspace_id, "tokens": tokens})

    client.token = tokens["owner"]
    try:
        client.send(calls.PutSecret(path=SECRET_PATH, value=_SECRET_VALUE, version=0))
    except Problem as problem:
        if problem.code != "conflict":  # an earlier start put it
            raise
    client.send(calls.RevealSecret(path=SECRET_PATH))
    return Demo(workspace_id, tokens)


def _kept(client: Client, keep: Path | None, workspace_id: str) -> dict[str, str]:
    """The tokens of an earlier start that are still good."""
    kept = read(keep.parent, keep.name) if keep else {}
    good = {}
    for role, token in kept.get("tokens", {}).items() if kept.get("workspace_id") == workspace_id else ():
        client.token = token
        try:
            client.send(calls.GetWorkspace())
        except Problem:
            continue
        good[role] = token
    return good
