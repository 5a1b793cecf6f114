"""The API's description as a person uses it: every operation tried in the order of the page, with what it prefills.

A value that cannot be in the page is taken from where the operation's description points: "Take `id` from
`list_events`".
"""

import re
from collections.abc import Iterator
from typing import Any

import httpx

from causeloop_gateway.documents import openapi
from tests.support.stack import Person, Stack, until

DOCUMENT = openapi.document()
TAKE = re.compile(r"Take `(\w+)` from (?:the answer (?:of|to) )?`(\w+)`")
TAGS = [tag["name"] for tag in DOCUMENT["tags"]]


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and operation, as the explorer shows them: by tag, and then as they come."""
    found = [
        (method, path, operation)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    ]
    return iter(sorted(found, key=lambda one: TAGS.index(one[2]["tags"][0])))


class Explorer:
    """Tries operations, and remembers their answers."""

    def __init__(self, stack: Stack, person: Person) -> None:
        self._stack = stack
        self._person = person
        self._token = ""
        self._answers: dict[str, Any] = {}

    async def sign_in(self) -> None:
        """Exchange a session, as on the page: beside the mock issuer, into a workspace that there is."""
        (exchange,) = (one for one in operations() if one[2]["operationId"] == "exchange")
        await self.attempt(*exchange)

    async def attempt(self, method: str, path: str, operation: dict[str, Any], **headers: str) -> httpx.Response:
        """Click *Try it out* and *Execute*; the answer, which has the status and the shape that are described."""
        taken = {field: self._take(field, source) for field, source in TAKE.findall(operation["description"])}
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        query = {}
        if operation["operationId"] == "exchange":
            session = await self._stack.session(self._person.subject)
            taken = {"subject_token": session, "workspace_id": self._person.workspace}
            assert all(f"`{field}`" in operation["description"] for field in taken)
        for parameter in map(_resolved, operation.get("parameters", [])):
            name = parameter["name"]
            value = taken.pop(name, parameter.get("example", parameter["schema"].get("default")))
            if parameter["in"] == "path":
                path = path.replace(f"{{{name}}}", str(value))
            elif value is not None:
                assert parameter["in"] == "query"
                query[name] = value
        if body is not None:
            body = body | taken
        if operation["security"]:
            headers["authorization"] = f"Bearer {self._token}"
        answer = await self._stack.http.request(method, path, params=query, json=body, headers=headers)
        self._check(operation, answer)
        return answer

    def _check(self, operation: dict[str, Any], answer: httpx.Response) -> None:
        (status,) = (status for status in operation["responses"] if status.startswith("2"))
        assert str(answer.status_code) == status, (operation["operationId"], answer.text)
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if kind == "application/json":
            shown = operation["responses"][status]["content"][kind]["example"]
            assert shape(answer.json(), shown) == shape(shown, answer.json()), operation["operationId"]
            self._answers[operation["operationId"]] = answer.json()
            self._token = answer.json().get("access_token", self._token)

    def _take(self, field: str, source: str) -> Any:
        answer = self._answers[source]
        return answer["data"][0][field] if "data" in answer else answer[field]

    async def stream(self, path: str) -> bytes:
        """The first lines of the stream."""
        headers = {"authorization": f"Bearer {self._token}"}
        async with self._stack.http.stream("GET", path, params={"from": 0}, headers=headers) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            async for chunk in answer.aiter_bytes():
                return chunk
        raise AssertionError("The stream has ended.")


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    return DOCUMENT["components"]["parameters"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def shape(value: Any, beside: Any) -> Any:
    """The names and kinds of a value; None where the other one is null or empty, and for an event's own fields."""
    if value is None or beside is None or value == [] or beside == []:
        return None
    if isinstance(value, dict) and isinstance(beside, dict):
        return {
            name: None if name == "data" and "index" in value else shape(value[name], beside.get(name))
            for name in value
        }
    return [shape(value[0], beside[0])] if isinstance(value, list) else type(value)


async def test_every_operation_works_with_what_the_page_prefills(stack: Stack) -> None:
    """F2: *Try it out* was prefilled with values that gave 409."""
    person = await stack.sign_up()
    explorer = Explorer(stack, person)
    tried = []
    for method, path, operation in operations():
        name = operation["operationId"]
        if name == "list_events":  # an act enters the log a moment after its answer
            await until("the log has entries", lambda: person.log(least=5))
        if name == "read_stream":
            assert (await explorer.stream(path)).startswith(b"retry:")
        else:
            await explorer.attempt(method, path, operation)
            if "text/plain" in operation["responses"].get("200", {}).get("content", {}):
                answer = await explorer.attempt(method, path, operation, accept="text/plain")
                assert answer.headers["content-type"].startswith("text/plain")
        tried.append(name)
        if name == "logout":
            assert "sign in again" in operation["description"]
            await explorer.sign_in()
    assert len(tried) == sum(map(len, DOCUMENT["paths"].values()))
