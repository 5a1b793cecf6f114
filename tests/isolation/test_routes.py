"""Every operation of the OpenAPI, called by a second tenant with the first one's ids."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.isolation.tenants import EVERYTHING, Tenants, makes_its_own, operations
from tests.support.stack import Person, Stack, content_of

NOT_FOUND, REFUSED = {404}, {400, 422}
ALLOWED: dict[str, set[int]] = {
    "exchange": {200, 404},
    "refresh": {200, 404},
    "logout": {204},
    "create_api_token": {201},
    "list_api_tokens": {200, 400},
    "revoke_api_token": NOT_FOUND,
    "create_workspace": {201},
    "get_workspace": {200},
    "list_my_workspaces": {200, 400},
    "list_secrets": {200, 400},
    "reveal_secret": NOT_FOUND,
    "put_secret": {200, 409},
    "get_secret": NOT_FOUND,
    "create_key": {201, 409},
    "list_keys": {200, 400},
    "encrypt": NOT_FOUND,
    "decrypt": NOT_FOUND,
    "list_events": {200, 400, 404},
    "get_event": NOT_FOUND,
    "get_checkpoint": {200},
    "get_event_proof": NOT_FOUND,
    "get_consistency": {200},
    "get_audit_key": {200},
    "read_stream": {200, 409},
    "get_keyring": {200},
    "rotate_keyring": {202, 409},
    "list_jobs": {200, 400},
    "get_job": NOT_FOUND,
    "cancel_job": NOT_FOUND,
}
"""What a second tenant may be answered, with all rights in a workspace of their own."""

SAYS_NOT_FOUND = {"exchange": "workspace_id", "refresh": "workspace_id", "list_events": "wait_for"}
"""Operations whose field, when it names a thing of a's, must be answered 404."""


async def attempts(tenants: Tenants, path: str, method: str, operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Every request this operation's description allows, as keyword arguments, naming things of a's."""
    name = operation["operationId"]
    given = operation.get("parameters", [])
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    places = {p["name"]: p["in"] for p in given if p["in"] != "header"} | dict.fromkeys(
        body.get("properties", {}), "body"
    )
    required = [p["name"] for p in given if p["in"] == "path" or p.get("required")] + body.get("required", [])
    headers = {p["name"] for p in given if p["in"] == "header"}
    assert headers <= {"Idempotency-Key", "Last-Event-ID"}, f"{name} has a header this test does not know: {headers}"
    made = []
    for fields in await tenants.requests(name, required, [field for field in places if field not in required]):
        address = path
        for field, value in fields.items():
            address = address.replace(f"{{{field}}}", str(value)).replace(f"{{{field}:path}}", str(value))
        assert "{" not in address
        request: dict[str, Any] = {"method": method, "url": address}
        if query := {field: value for field, value in fields.items() if places[field] == "query"}:
            request["params"] = query
        if method != "GET":
            request["json"] = {field: value for field, value in fields.items() if places[field] == "body"}
        made.append(request)
    if "Last-Event-ID" in headers:  # from the start, and from where a's log is longer
        made += [made[-1] | {"headers": {"last-event-id": position}} for position in ("-1", "0", "1000")]
    if "Idempotency-Key" in headers:  # once with each of a's
        made += [made[-1] | {"headers": {"idempotency-key": key}} for key in ("key-of-alpha", "value-of-alpha")]
    return made


@pytest.fixture(scope="module")
async def openapi(stack: Stack) -> dict[str, Any]:
    document: dict[str, Any] = content_of(await stack.http.get("/openapi.json"))

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        *_, kind, name = node.get("$ref", "//").split("/")
        return document["components"][kind][name] if name else node

    for _, _, operation in operations(document):
        operation["parameters"] = [resolved(each) for each in operation.get("parameters", [])]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            content["schema"] = resolved(content["schema"])
    return document


class TestEveryRoute:
    async def test_is_known_here(self, openapi: dict[str, Any]) -> None:
        described = [operation["operationId"] for _, _, operation in operations(openapi)]
        assert sorted(described) == sorted(ALLOWED), "Say in ALLOWED what a second tenant may be answered."
        assert len(described) == len(set(described))

    async def test_tells_and_changes_nothing_of_another_tenant(
        self, stack: Stack, tenants: Tenants, openapi: dict[str, Any], tell: Callable[[str], None]
    ) -> None:
        before = await tenants.footprint()
        count, found = 0, 0
        for method, path, operation in sorted(operations(openapi), key=lambda o: makes_its_own(o[2]["operationId"])):
            name, signed_in = operation["operationId"], bool(operation["security"])
            for kind, caller in (await callers(stack, tenants)).items():
                if not signed_in and kind != "nobody":
                    continue
                for number, request in enumerate(await attempts(tenants, path, method, operation)):
                    if name == "logout" and number:
                        continue  # the session is over
                    if kind != "session" and "idempotency-key" in request.get("headers", {}):
                        continue  # the same person, so the same key again
                    answer = await send(stack, caller, request)
                    assert "idempotency-replayed" not in answer.headers
                    count += 1
                    where = (name, kind, request, answer.status_code, answer.text[:300])
                    expected = ALLOWED[name]
                    if signed_in and kind == "nobody":
                        expected = {401}
                    elif kind != "session":
                        expected = expected | {403}
                    assert answer.status_code in expected, where
                    told_by_caller = json.dumps(request) + answer.request.url.raw_path.decode()
                    told_to_caller = answer.text + str(answer.headers)
                    assert tenants.nothing_of_a(told_to_caller, told_by_caller), where
                    naming = SAYS_NOT_FOUND.get(name)
                    asked = request.get("json", {}) | request.get("params", {})
                    if naming in asked or "cursor" in asked:
                        assert not answer.is_success, where
                    found += answer.status_code in (200, 201, 204)
        assert await tenants.footprint() == before
        content_of(await tenants.a.person.get("/secrets", token=tenants.a.token["token"]))
        tell(
            f"isolation: {len(ALLOWED)} routes, {count} requests of a second tenant with the first one's ids: "
            f"{found} answered with its own, {count - found} refused, nothing of another tenant"
        )


class Caller:
    """A credential, or none."""

    def __init__(self, token: str | None) -> None:
        self.headers = {"authorization": f"Bearer {token}"} if token else {}


async def callers(stack: Stack, tenants: Tenants) -> dict[str, Caller]:
    """Ways to come as a second tenant. Sessions of their own each time, since some operations end them."""
    b = Person(stack, tenants.b.person.subject)
    await b.sign_in()
    await b.move(tenants.b.person.workspace)
    token = await b.personal_token(*map(str, EVERYTHING), name="b's")
    realm = Person(stack, b.subject)
    await realm.sign_in()
    return {
        "session": Caller(b.token),
        "realm": Caller(realm.realm_token),
        "token": Caller(token["token"]),
        "nobody": Caller(None),
    }


async def send(stack: Stack, caller: Caller, request: dict[str, Any]) -> httpx.Response:
    given = {**request, "headers": caller.headers | request.get("headers", {})}
    if not request["url"].endswith("/audit/stream"):
        return await stack.http.request(**given)
    heard = b""
    async with stack.http.stream(**given) as answer:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):  # what is there comes at once; it does not end by itself
                async for data in answer.aiter_bytes():
                    heard += data
        return httpx.Response(answer.status_code, headers=answer.headers, content=heard, request=answer.request)
