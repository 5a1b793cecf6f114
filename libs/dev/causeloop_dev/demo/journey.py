"""The journey, part by part: what is done, what must come back, and why it matters."""

import base64
import secrets
import time

import httpx

from causeloop_cli.audit import client
from causeloop_dev.demo import proving
from causeloop_dev.demo.listener import Heard, Listener
from causeloop_dev.demo.page import Page
from causeloop_dev.demo.person import Answer, Person, Unexpected

SCOPES = ["audit:read", "audit:stream", "keys:use", "keys:write", "secrets:reveal", "secrets:write"]
VALUE = "correct horse battery staple"
PLAINTEXT = "IBAN of order 7"
_STILL = 10

_SHOWN = (
    "Shown: who may not is refused, a stranger finds nothing, and what is in the log cannot be changed, cut, forked or "
    "rolled back unnoticed by whoever pinned its key and kept a checkpoint."
)
_NOT_SHOWN = (
    "Not shown: that an event tells the truth, that everybody is shown the same log (it takes witnesses elsewhere), or "
    "how rows are kept apart and encrypted: `causeloop doctor` and `make test` look there."
)


def run(page: Page, gateway_url: str, issuer_url: str) -> None:
    """All of it; Unexpected at the first thing that is not as it should be."""
    began = time.monotonic()
    page.title("Causeloop, the whole journey", f"A new person, over HTTP alone, at {gateway_url}.")
    with httpx.Client(timeout=10, follow_redirects=False) as http:
        suffix = secrets.token_hex(4)
        person, stranger = [Person(http, gateway_url, issuer_url, f"{name}-{suffix}") for name in ("ada", "eve")]
        journey = Journey(page, person, stranger, gateway_url, suffix)
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
    """A person with a workspace of their own, and a stranger with another."""

    def __init__(self, page: Page, person: Person, stranger: Person, gateway_url: str, suffix: str) -> None:
        self._page = page
        self._person = person
        self._stranger = stranger
        self._gateway_url = gateway_url
        self._suffix = suffix
        self._pat = ""
        self._pat_id = ""

    def sign_in(self) -> None:
        """1: the identity provider's session, exchanged."""
        page, person = self._page, self._person
        page.heading(
            1, "Sign in", "The identity provider's session is exchanged, never used: what is ours can be revoked."
        )
        _, grant = person.sign_in()
        page.did("POST issuer/v1/sessions", "200", f"a session of {person.subject}, mock issuer")
        minutes = grant.body.get("expires_in", 0) // 60
        page.did("POST /v1/auth/exchange", "200", f"a token for their own realm, {minutes} minutes")

    def workspace(self) -> None:
        """2: one workspace from two requests."""
        page, person = self._page, self._person
        page.heading(2, "A workspace", "A request repeated under its Idempotency-Key has one effect.")
        named = ("Demo of Ada", f"ada-{self._suffix}", f"demo-{self._suffix}")
        first, again = person.make_workspace(*named), person.make_workspace(*named)
        if first.body["id"] != again.body["id"] or first.replayed or not again.replayed:
            raise Unexpected("the same workspace, replayed", f"{again.body['id']}, replayed: {again.replayed}")
        page.did("POST /v1/workspaces", "201", first.body["id"])
        page.did("POST /v1/workspaces, repeated", "201 replayed", "the same one, not a second")
        person.move(first.body["id"])
        page.did("POST /v1/auth/refresh", "200", "moved into it: a token is for one workspace")

    def token(self) -> None:
        """3: a personal access token, and a listener with it."""
        page, person = self._page, self._person
        page.heading(
            3, "A token with few scopes", "A program gets what it needs and nothing more; from now on it acts."
        )
        body = {"name": "demo", "scopes": SCOPES, "expires_in_days": 1}
        made = person.ask("POST", "/api-tokens", body, expect=201)
        self._pat, self._pat_id = made.body["token"], made.body["id"]
        page.did("POST /v1/api-tokens", "201", f"{self._pat_id}, shown once")
        page.note(f"Scopes: {', '.join(SCOPES)}.")
        self._no("GET", "/secrets", 403, token=self._pat)
        self._gateway = client.Gateway(self._gateway_url, self._pat)
        self._listener = Listener(self._gateway)
        page.did("GET /v1/audit/stream", "200 open", "a listener; lines with ~ are what it hears")

    def secret(self) -> None:
        """4: a secret, and a stranger."""
        page, person, stranger = self._page, self._person, self._stranger
        page.heading(4, "A secret", "Encrypted under the workspace's own key; to others it does not even exist.")
        put = person.ask("PUT", "/secrets/db/password", {"value": VALUE}, token=self._pat)
        page.did("PUT /v1/secrets/db/password", "200", f"version {put.body['version']}, its value not in the answer")
        self._hear("vault.secret_written", put)
        shown = person.ask("POST", "/secrets/db/password/reveal", {}, token=self._pat)
        if shown.body["value"] != VALUE:
            raise Unexpected("the value that was put", "another one")
        page.did("POST …/db/password/reveal", "200", f'"{VALUE}", on record')
        self._hear("vault.secret_revealed", shown)
        stranger.sign_in()
        made = stranger.make_workspace("Demo of Eve", f"eve-{self._suffix}", f"demo-{self._suffix}")
        stranger.move(made.body["id"])
        page.note("Eve, owner of another workspace, tries the same path:")
        self._no("POST", "/secrets/db/password/reveal", 404, person=stranger)

    def named_key(self) -> None:
        """5: a ciphertext, in its context and in another."""
        page, person = self._page, self._person
        page.heading(5, "A named key", "Data that lies elsewhere is encrypted here, bound to where it belongs.")
        made = person.ask("POST", "/keys", {"name": "orders", "type": "aes256-gcm"}, expect=201, token=self._pat)
        page.did("POST /v1/keys", "201", f"orders, {made.body['type']}; it stays in the vault")
        self._hear("vault.key_created", made)
        plaintext, right = base64.b64encode(PLAINTEXT.encode()).decode(), {"order": "7"}
        sealed = person.ask(
            "POST", "/keys/orders/encrypt", {"plaintext": plaintext, "context": right}, token=self._pat
        ).body["ciphertext"]
        page.did("POST /v1/keys/orders/encrypt", "200", f"{sealed[:24]}…, for order 7")
        opened = person.ask("POST", "/keys/orders/decrypt", {"ciphertext": sealed, "context": right}, token=self._pat)
        if opened.body["plaintext"] != plaintext:
            raise Unexpected("the text that was encrypted", "another one")
        page.did("POST /v1/keys/orders/decrypt", "200", f'"{PLAINTEXT}", for order 7')
        self._hear("vault.data_decrypted", opened)
        page.note("The ciphertext, moved to order 8:")
        moved = {"ciphertext": sealed, "context": {"order": "8"}}
        self._no("POST", "/keys/orders/decrypt", 422, moved, token=self._pat)

    def stream(self) -> None:
        """6: a listener that is cut off."""
        page, person = self._page, self._person
        page.heading(6, "The stream, cut off", "A listener may miss the connection, and no entry.")
        before = self._listener.last_id
        self._listener.cut()
        page.did("connection dropped", f"after {before}", "the last entry the listener was told")
        away = range(1, 4)
        for number in away:
            person.ask("PUT", f"/secrets/away/{number}", {"value": "x"}, token=self._pat)
        page.did("PUT /v1/secrets/away/1, 2, 3", "200", "three acts that nobody hears")
        self._listener = Listener(self._gateway, before)
        page.did("GET /v1/audit/stream", "200 open", f"Last-Event-ID: {before}")
        heard: list[Heard] = []
        while [one.leaf["action"] for one in heard].count("vault.secret_written") < len(away):
            heard += self._listener.until("vault.secret_written")
        for one in heard:
            page.heard(one.event.id, one.leaf["action"], "made while away")
        indexes = [int(one.event.id) for one in heard]
        if indexes != list(range(int(before) + 1, int(before) + 1 + len(heard))):
            raise Unexpected(f"entries from {int(before) + 1} on, each once", f"{indexes}")
        page.held("resumed exactly", f"entries {indexes[0]} to {indexes[-1]}, each once, in order, none missing")

    def proof(self) -> None:
        """7: the log, verified and bent."""
        page, person = self._page, self._person
        page.heading(
            7, "The log, proven", "Nobody needs to trust us: the log is checked offline, by a key that was pinned."
        )
        proving.run(page, self._gateway, lambda: self._one_more(person))

    def revocation(self) -> None:
        """8: the token, and its stream, end."""
        page, person = self._page, self._person
        page.heading(
            8,
            "Revocation",
            "A token that leaked must be worth nothing at once, and an open stream must not outlive it.",
        )
        person.ask("GET", "/audit/events?limit=1", token=self._pat)
        page.did("GET /v1/audit/events", "200", "the token works, its stream is open")
        revoked = person.ask("DELETE", f"/api-tokens/{self._pat_id}", expect=204)
        page.did("DELETE /v1/api-tokens/{id}", "204", "revoked by the person")
        refused, served = person.until_refused("/audit/events?limit=1", self._pat)
        page.refused("GET /v1/audit/events", "401", f"{refused.code}: {refused.problem}")
        for _ in range(_STILL):
            person.ask("GET", "/audit/events?limit=1", expect=401, token=self._pat)
        told = f"{_after(refused.at, revoked)}; {served} requests served in between, then {_STILL} more refused"
        page.held("and stays refused", told)
        end = self._listener.until("end")[-1]
        page.heard("-", "stream ended by itself", f"{end.leaf['code']}, {_after(end.at, revoked)}")
        self._listener.cut()

    def _one_more(self, person: Person) -> None:
        written = person.ask("PUT", "/secrets/later", {"value": "x"}, token=self._pat)
        self._page.did("PUT /v1/secrets/later", "200", "one more act, for the log to grow")
        self._hear("vault.secret_written", written)

    def _hear(self, action: str, answer: Answer) -> None:
        for one in self._listener.until(action):
            self._page.heard(one.event.id, one.leaf["action"], _after(one.at, answer))

    def _no(
        self, method: str, path: str, status: int, body: object = None, *, person: Person | None = None, token: str = ""
    ) -> None:
        """What must be refused."""
        asked = {} if body is None and method == "POST" else body
        answer = (person or self._person).ask(method, path, asked, expect=status, token=token)
        self._page.refused(f"{method} /v1{path}", str(status), f"{answer.code}: {answer.problem}")


def _after(at: float, answer: Answer) -> str:
    milliseconds = (at - answer.at) * 1000
    return f"{milliseconds:.0f} ms after the answer" if milliseconds > 0 else "before the answer"
