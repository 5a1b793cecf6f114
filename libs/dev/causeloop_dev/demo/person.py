"""Somebody who uses the gateway: signs in, owns a workspace, asks, and says when the answer is not the expected one."""

import time
from dataclasses import dataclass
from typing import Any

import httpx

_REVOKED_SECONDS = 1.0
"""After this a revocation that is still not known breaks its promise."""


class Unexpected(Exception):
    """Something came that should not; no token is in either text."""

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(f"expected {expected}, came {came}")
        self.expected = expected
        self.came = came


@dataclass(frozen=True)
class Answer:
    """A body, and the moment (monotonic seconds) at which it was there."""

    status: int
    body: Any
    replayed: bool
    at: float

    @property
    def problem(self) -> str:
        """A refusal's sentence, or what it says of each field."""
        fields = self.body.get("errors") or {}
        return "; ".join(f"{name} {whys[0]}" for name, whys in fields.items()) or str(self.body["detail"])

    @property
    def code(self) -> str:
        """A refusal's stable code."""
        return str(self.body["code"])


class Person:
    """`token` is what the person asks with when nothing else is given: of the realm first, then of the workspace."""

    def __init__(self, http: httpx.Client, gateway_url: str, issuer_url: str, subject: str) -> None:
        self._http = http
        self._api = f"{gateway_url}/v1"
        self._issuer_url = issuer_url
        self.subject = subject
        self.token = ""
        self.workspace = ""
        self._refresh_token = ""

    def sign_in(self) -> tuple[Answer, Answer]:
        """A session of the identity provider, exchanged; both answers."""
        session = self._ask("POST", f"{self._issuer_url}/v1/sessions", {"subject": self.subject, "ttl_seconds": 60})
        grant = self.ask("POST", "/auth/exchange", {"subject_token": session.body["token"]})
        self._hold(grant)
        return session, grant

    def make_workspace(self, name: str, slug: str, key: str) -> Answer:
        """A workspace under an Idempotency-Key."""
        return self.ask("POST", "/workspaces", {"name": name, "slug": slug}, expect=201, key=key)

    def move(self, workspace: str) -> Answer:
        """Into a workspace: from now on the token is for it."""
        moved = {"refresh_token": self._refresh_token, "workspace_id": workspace}
        grant = self.ask("POST", "/auth/refresh", moved)
        self._hold(grant)
        self.workspace = workspace
        return grant

    def ask(
        self, method: str, path: str, body: Any = None, *, expect: int = 200, token: str = "", key: str = ""
    ) -> Answer:
        """The answer to a request; Unexpected unless it has this status."""
        return self._ask(method, f"{self._api}{path}", body, expect=expect, token=token or self.token, key=key)

    def until_refused(self, path: str, token: str) -> tuple[Answer, int]:
        """The first 401 for this token, and how many answers came before it; Unexpected when it does not come."""
        deadline, served = time.monotonic() + _REVOKED_SECONDS, 0
        while True:
            try:
                return self.ask("GET", path, expect=401, token=token), served
            except Unexpected:
                if time.monotonic() > deadline:
                    raise
                served += 1

    def _hold(self, grant: Answer) -> None:
        self.token, self._refresh_token = grant.body["access_token"], grant.body["refresh_token"]

    def _ask(self, method: str, url: str, body: Any, *, expect: int = 200, token: str = "", key: str = "") -> Answer:
        headers = {"accept": "application/json"}
        headers |= {"authorization": f"Bearer {token}"} if token else {}
        headers |= {"idempotency-key": key} if key else {}
        answer = self._http.request(method, url, json=body, headers=headers)
        at = time.monotonic()
        told = answer.json() if answer.content else None
        if answer.status_code != expect:
            came = f"{answer.status_code}"
            if isinstance(told, dict) and "detail" in told:
                came += f" {told.get('code')}: {told['detail']}"
            raise Unexpected(f"{expect} for {method} {httpx.URL(url).path}", came)
        return Answer(answer.status_code, told, answer.headers.get("idempotency-replayed") == "true", at)
