"""The README's journey with a client that openapi-python-client made. Arguments: the gateway, the issuer."""

import sys
import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from causeloop_generated import AuthenticatedClient, Client
from causeloop_generated.api.audit import list_events
from causeloop_generated.api.auth import create_api_token, exchange, refresh, revoke_api_token
from causeloop_generated.api.tenancy import create_workspace
from causeloop_generated.api.vault import list_secrets, put_secret, reveal_secret
from causeloop_generated.models import (
    CreateApiToken,
    CreatedApiToken,
    CreateWorkspace,
    EventPage,
    Exchange,
    Grant,
    ListEventsOrder,
    Permission,
    Problem,
    PutSecret,
    Refresh,
    RevealedSecret,
    RevealSecret,
    SecretView,
    WorkspaceView,
)

T = TypeVar("T")
ACTS = {"tenancy.workspace_created", "auth.token_created", "vault.secret_written", "vault.secret_revealed"}


def until(what: str, ask: Callable[[], T | None]) -> T:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if (answer := ask()) is not None:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"After ten seconds it is still not so: {what}.")


def main(gateway: str, issuer: str) -> None:
    def client(token: str) -> AuthenticatedClient:
        return AuthenticatedClient(base_url=gateway, token=token, raise_on_unexpected_status=True)

    # a session of the identity provider, exchanged
    session = httpx.post(f"{issuer}/v1/sessions", json={"subject": "python"}).json()["token"]
    grant = exchange.sync(client=Client(base_url=gateway), body=Exchange(subject_token=session))
    assert isinstance(grant, Grant)
    assert grant.workspace_id is None

    # a workspace, asked for twice with one key
    realm, body = client(grant.access_token), CreateWorkspace(name="Acme", slug="acme")
    first, second = [
        create_workspace.sync_detailed(client=realm, body=body, idempotency_key="my-first") for _ in range(2)
    ]
    assert isinstance(first.parsed, WorkspaceView)
    assert first.parsed == second.parsed
    assert second.headers["Idempotency-Replayed"] == "true"

    # into it, and a token for programs
    moving = Refresh(refresh_token=grant.refresh_token, workspace_id=first.parsed.id)
    moved = refresh.sync(client=Client(base_url=gateway), body=moving)
    assert isinstance(moved, Grant)
    person = client(moved.access_token)
    scopes = [Permission.SECRETSREAD, Permission.SECRETSWRITE, Permission.SECRETSREVEAL, Permission.AUDITREAD]
    made = create_api_token.sync(client=person, body=CreateApiToken(name="ci", scopes=scopes))
    assert isinstance(made, CreatedApiToken)

    # a secret, written and revealed
    program = client(made.token)
    put = put_secret.sync("db/password", client=program, body=PutSecret(value="s3cret"))
    assert isinstance(put, SecretView)
    shown = reveal_secret.sync("db/password", client=program, body=RevealSecret())
    assert isinstance(shown, RevealedSecret)
    assert (put.version, shown.value) == (1, "s3cret")

    # every act, in order
    def actions() -> set[str] | None:
        page = list_events.sync(client=program, order=ListEventsOrder.INDEX, limit=100)
        assert isinstance(page, EventPage)
        found = {entry.action for entry in page.data}
        return found if found >= ACTS else None

    until("the log has every act", actions)

    # revoked, and refused
    assert revoke_api_token.sync_detailed(made.id, client=person).status_code == 204

    def refusal() -> Problem | None:
        answer = list_secrets.sync(client=program)
        return answer if isinstance(answer, Problem) else None

    problem = until("the token is refused", refusal)
    assert (problem.status, problem.code) == (401, "unauthorized")


if __name__ == "__main__":
    main(*sys.argv[1:])
