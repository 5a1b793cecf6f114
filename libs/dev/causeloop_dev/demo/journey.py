"""The journey, part by part: each step, the answer it must have, and why it matters."""

import base64
import secrets
import time
from contextlib import suppress
from typing import Any

import httpx

from causeloop_client import Client, Problem, calls
from causeloop_client.call import Call, Reply
from causeloop_dev.demo import proving
from causeloop_dev.demo.listener import Arrival, Listener
from causeloop_dev.demo.page import Page, Unexpected
from causeloop_dev.seed import sign_in

SCOPES = ["audit:read", "audit:stream", "keys:use", "keys:write", "secrets:reveal", "secrets:write"]
VALUE = "correct horse battery staple"
PLAINTEXT = "IBAN of order 7"
_STILL = 10
_REVOKED_SECONDS = 1.0
"""After this a revocation that is still not known breaks its promise."""

_SHOWN = (
    "Shown: an act without permission is refused, a stranger finds nothing, and a log that was changed, cut, forked or "
    "rolled back is noticed by anybody who pinned its key and kept a checkpoint."
)
_NOT_SHOWN = (
    "Not shown: that an event is true, that everybody is shown the same log (it takes witnesses elsewhere), or "
    "how rows are kept apart and encrypted: `causeloop doctor` and `make test` look there."
)


def run(page: Page, gateway_url: str, issuer_url: str) -> None:
    """All of it; Unexpected at the first thing that is not as it should be."""
    began = time.monotonic()
    page.title("Causeloop, the whole journey", f"A new person, over HTTP alone, at {gateway_url}.")
    with httpx.Client(trust_env=False) as http:
        journey = Journey(page, http, gateway_url, issuer_url)
        journey.sign_in()
        journey.workspace()
        journey.token()
        journey.secret()
        journey.named_key()
        journey.stream()
        journey.proof()
        journey.revocation()
    page.heading(9, "What was shown", f"In {time.monotonic() - began:.1f} s, and by answers alone.")
    page.note(_SHOWN)
    page.note(_NOT_SHOWN)


class Journey:
    """A person with a workspace of their own, their program with a token, and a stranger with another workspace."""

    def __init__(self, page: Page, http: httpx.Client, gateway_url: str, issuer_url: str) -> None:
        self._page = page
        self._http = http
        self._issuer_url = issuer_url
        self._suffix = secrets.token_hex(4)
        self._person, self._program, self._stranger = (Client(gateway_url, http=http) for _ in range(3))
        self._answered_at = 0.0

    def sign_in(self) -> None:
        """1: the identity provider's session, exchanged."""
        page, subject = self._page, f"ada-{self._suffix}"
        page.heading(
            1, "Sign in", "The identity provider's session is exchanged, never used: our own tokens can be revoked."
        )
        self._grant = sign_in(self._person, self._http, self._issuer_url, subject)
        page.did("POST issuer/v1/sessions", "200", f"a session of {subject}, mock issuer")
        minutes = self._grant["expires_in"] // 60
        page.did("POST /v1/auth/exchange", "200", f"a token for their own realm, {minutes} minutes")

    def workspace(self) -> None:
        """2: one workspace from two requests."""
        page = self._page
        page.heading(2, "A workspace", "A request repeated under its Idempotency-Key has one effect.")
        call, key = calls.CreateWorkspace(name="Demo of Ada", slug=f"ada-{self._suffix}"), f"demo-{self._suffix}"
        first, again = self._person.answer(call, key=key), self._person.answer(call, key=key)
        made = first.body["id"]
        if again.body["id"] != made or first.is_replayed or not again.is_replayed:
            raise Unexpected("the same workspace, replayed", f"{again.body['id']}, replayed: {again.is_replayed}")
        page.did("POST /v1/workspaces", "201", made)
        page.did("POST /v1/workspaces, repeated", "201 replayed", "the same one, not a second")
        _move(self._person, self._grant["refresh_token"], made)
        page.did("POST /v1/auth/refresh", "200", "moved into it: a token is for one workspace")

    def token(self) -> None:
        """3: a personal access token, and a listener with it."""
        page = self._page
        page.heading(
            3, "A token with few scopes", "A program gets what it needs and nothing more; from now on it acts."
        )
        made = self._person.send(calls.CreateApiToken(name="demo", scopes=SCOPES, expires_in_days=1))
        self._program.token, self._token_id = made["token"], made["id"]
        page.did("POST /v1/api-tokens", "201", f"{self._token_id}, shown once")
        page.note(f"Scopes: {', '.join(SCOPES)}.")
        self._refused(self._program, calls.ListSecrets(), 403)
        self._listener = Listener(self._program.url, self._program.token, 0)
        self._listener.until("auth.token_created")
        page.did("GET /v1/audit/stream", "200 open", "a listener; lines with ~ are what reaches it")

    def secret(self) -> None:
        """4: a secret, and a stranger."""
        page = self._page
        page.heading(4, "A secret", "Encrypted under the workspace's own key; to others it does not even exist.")
        put = self._do(calls.PutSecret(path="db/password", value=VALUE))
        page.did("PUT /v1/secrets/db/password", "200", f"version {put['version']}, its value not in the answer")
        self._listen("vault.secret_written")
        if self._do(calls.RevealSecret(path="db/password"))["value"] != VALUE:
            raise Unexpected("the value that was put", "another one")
        page.did("POST …/db/password/reveal", "200", f'"{VALUE}", on record')
        self._listen("vault.secret_revealed")
        grant = sign_in(self._stranger, self._http, self._issuer_url, f"eve-{self._suffix}")
        made = self._stranger.send(calls.CreateWorkspace(name="Demo of Eve", slug=f"eve-{self._suffix}"))
        _move(self._stranger, grant["refresh_token"], made["id"])
        page.note("Eve, owner of another workspace, tries the same path:")
        self._refused(self._stranger, calls.RevealSecret(path="db/password"), 404)

    def named_key(self) -> None:
        """5: a ciphertext, in its context and in another."""
        page = self._page
        page.heading(5, "A named key", "Data that lies elsewhere is encrypted here, bound to where it belongs.")
        made = self._do(calls.CreateKey(name="orders", type="aes256-gcm"))
        page.did("POST /v1/keys", "201", f"orders, {made['type']}; it stays in the vault")
        self._listen("vault.key_created")
        plaintext, right = base64.b64encode(PLAINTEXT.encode()).decode(), {"order": "7"}
        sealed = self._do(calls.Encrypt(name="orders", plaintext=plaintext, context=right)).get("ciphertext") or ""
        page.did("POST /v1/keys/orders/encrypt", "200", f"{sealed[:24]}…, for order 7")
        opened = self._do(calls.Decrypt(name="orders", ciphertext=sealed, context=right))
        if opened.get("plaintext") != plaintext:
            raise Unexpected("the text that was encrypted", "another one")
        page.did("POST /v1/keys/orders/decrypt", "200", f'"{PLAINTEXT}", for order 7')
        self._listen("vault.data_decrypted")
        page.note("The ciphertext, moved to order 8:")
        self._refused(self._program, calls.Decrypt(name="orders", ciphertext=sealed, context={"order": "8"}), 422)

    def stream(self) -> None:
        """6: a listener that is cut off."""
        page, before = self._page, self._last
        page.heading(6, "The stream, cut off", "A listener may miss the connection, and no entry.")
        self._listener.cut()
        page.did("connection dropped", f"after {before}", "the last entry that reached the listener")
        away = range(1, 4)
        for number in away:
            self._do(calls.PutSecret(path=f"away/{number}", value="x"))
        page.did("PUT /v1/secrets/away/1, 2, 3", "200", "three acts while nobody listens")
        self._listener = Listener(self._program.url, self._program.token, after=before)
        found: list[Arrival] = []
        while [each.event.body["action"] for each in found].count("vault.secret_written") < len(away):
            found += self._listener.until("vault.secret_written")
        page.did("GET /v1/audit/stream", "200 open", f"Last-Event-ID: {before}")
        for each in found:
            page.arrived(each.event.id, each.event.body["action"], "made while away")
        indexes = [each.event.index for each in found]
        if indexes != list(range(before + 1, before + 1 + len(found))):
            raise Unexpected(f"entries from {before + 1} on, each once", f"{indexes}")
        page.held("resumed exactly", f"entries {indexes[0]} to {indexes[-1]}, each once, in order, none missing")

    def proof(self) -> None:
        """7: the log, verified and bent."""
        self._page.heading(
            7, "The log, proven", "Nobody needs to trust us: the log is checked offline, by a key that was pinned."
        )
        proving.run(self._page, self._program, self._one_more)

    def revocation(self) -> None:
        """8: the token, and its stream, end."""
        page, looks = self._page, calls.ListEvents(limit=1)
        page.heading(
            8,
            "Revocation",
            "A token that leaked must be worth nothing at once, and an open stream must not outlive it.",
        )
        self._do(looks)
        page.did("GET /v1/audit/events", "200", "the token works, its stream is open")
        self._person.send(calls.RevokeApiToken(id=self._token_id))
        self._answered_at = time.monotonic()
        page.did("DELETE /v1/api-tokens/{id}", "204", "revoked by the person")
        served = 0
        with suppress(Problem):
            while time.monotonic() < self._answered_at + _REVOKED_SECONDS:
                self._program.send(looks)
                served += 1
        after = self._after(time.monotonic())
        still = [_refusal(self._program, looks, 401) for _ in range(_STILL)]
        page.refused("GET /v1/audit/events", "401", _reasons(still[0]))
        page.held("and stays refused", f"{after}; {served} requests served in between, then {_STILL} more refused")
        end, at = self._listener.end()
        if not isinstance(end, Problem):
            raise Unexpected("a stream that ends by itself", str(end))
        page.arrived("-", "stream ended by itself", f"{end.code}, {self._after(at)}")
        self._listener.cut()

    def _do(self, call: Call[Reply]) -> Reply:
        """An act of the program."""
        reply = self._program.send(call)
        self._answered_at = time.monotonic()
        return reply

    def _refused(self, client: Client, call: Call[Any], status: int) -> None:
        """A request that must be refused."""
        problem = _refusal(client, call, status)
        self._page.refused(" ".join(call.to_http()[:2]), str(status), _reasons(problem))

    def _one_more(self) -> None:
        self._do(calls.PutSecret(path="later", value="x"))
        self._page.did("PUT /v1/secrets/later", "200", "one more act, for the log to grow")
        self._listen("vault.secret_written")

    def _listen(self, action: str) -> None:
        for each in self._listener.until(action):
            self._last = each.event.index
            self._page.arrived(each.event.id, each.event.body["action"], self._after(each.at))

    def _after(self, at: float) -> str:
        milliseconds = (at - self._answered_at) * 1000
        return f"{milliseconds:.0f} ms after the answer" if milliseconds > 0 else "before the answer"


def _move(client: Client, refresh_token: str, workspace_id: str) -> None:
    """Into a workspace: from now on the client's token is for it."""
    client.token = client.send(calls.Refresh(refresh_token=refresh_token, workspace_id=workspace_id))["access_token"]


def _refusal(client: Client, call: Call[Any], status: int) -> Problem:
    """The refusal that a call must get."""
    try:
        client.send(call)
    except Problem as problem:
        if problem.status == status:
            return problem
        came = str(problem)
    else:
        came = "that it was done"
    raise Unexpected(f"{status} for {call!r}", came)


def _reasons(problem: Problem) -> str:
    """A refusal's code with its sentence, or with what is wrong with each field."""
    fields = "; ".join(f"{name} {reasons[0]}" for name, reasons in problem.errors.items())
    return f"{problem.code}: {fields or problem.detail}"
