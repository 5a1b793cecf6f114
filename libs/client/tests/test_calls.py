"""Calls: the same operations as the OpenAPI document, and what they are as HTTP."""

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from causeloop_client import Problem, calls
from causeloop_client.call import Call, List
from causeloop_client.calls import (
    CreateApiToken,
    GetConsistency,
    GetEvent,
    ListEvents,
    Logout,
    PutSecret,
    RevealSecret,
)

DOCUMENT = json.loads((Path(__file__).parents[3] / "docs/openapi.json").read_text())
OPERATIONS = {
    operation["operationId"]: (f"{method.upper()} {path.removeprefix('/v1')}", operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    if operation["operationId"] != "read_stream"  # which is `follow`
}
CLASSES: dict[str, type[Call[Any]]] = {
    "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_"): kind
    for name, kind in vars(calls).items()
    if isinstance(kind, type) and issubclass(kind, Call) and kind not in (Call, List)
}


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    for step in node.get("$ref", "#").split("/")[1:]:
        node = node[step] if step in node else DOCUMENT[step]
    return node


class TestTheDocument:
    def test_every_operation_has_its_class_and_every_class_its_operation(self) -> None:
        assert CLASSES.keys() == OPERATIONS.keys()
        assert len(CLASSES) >= 19

    @pytest.mark.parametrize("name", CLASSES)
    def test_a_class_has_the_route_the_fields_and_the_reply_of_its_operation(self, name: str) -> None:
        kind, (route, operation) = CLASSES[name], OPERATIONS[name]
        assert kind._route == route
        parameters = [resolved(each) for each in operation.get("parameters", [])]
        content = operation.get("requestBody", {}).get("content", {})
        body = resolved(content["application/json"]["schema"]) if content else {}
        assert kind.takes_key == ("Idempotency-Key" in [each["name"] for each in parameters])
        optional = {each["name"]: not each["required"] for each in parameters if each["in"] != "header"}
        optional |= {field: field not in body.get("required", []) for field in body.get("properties", {})}
        hints = {
            field.rstrip("_"): type(None) in get_args(hint)
            for field, hint in get_type_hints(kind).items()
            if not field.startswith("_") and field != "takes_key"
        }
        assert hints == optional

        answer = next(answer for status, answer in operation["responses"].items() if status < "300")
        reply = get_args(kind.__orig_bases__[0])[0]  # type: ignore[attr-defined]
        if not answer.get("content"):
            assert reply is type(None)
            return
        schema = resolved(answer["content"]["application/json"]["schema"])
        if issubclass(kind, List):
            assert {"data", "page"} <= set(schema["required"]) <= {"data", "page", "unanswered"}
            schema = resolved(schema["properties"]["data"]["items"])
        assert reply.__required_keys__ == set(schema.get("required", []))
        assert reply.__required_keys__ | reply.__optional_keys__ == set(schema["properties"])


class TestACall:
    def test_puts_its_fields_where_they_belong_and_leaves_out_those_that_are_none(self) -> None:
        assert PutSecret(path="db/url", value="v").to_http() == ("PUT", "/v1/secrets/db/url", {}, {"value": "v"})
        assert RevealSecret(path="a", version=2).to_http() == ("POST", "/v1/secrets/a/reveal", {}, {"version": 2})
        assert ListEvents(limit=3, action="vault.").to_http() == (
            "GET",
            "/v1/audit/events",
            {"limit": 3, "action": "vault."},
            None,
        )
        assert GetConsistency(from_=1, to=2).to_http() == ("GET", "/v1/audit/consistency", {"from": 1, "to": 2}, None)
        assert Logout().to_http() == ("POST", "/v1/auth/logout", {}, {})

    @pytest.mark.parametrize("path", ["", ".", "..", "a/../../keys", "a//b", "/a", "a/", "a/."])
    def test_whose_path_would_lead_elsewhere_is_refused(self, path: str) -> None:
        with pytest.raises(Problem, match=r"path: has an empty segment, or one of dots alone\.$") as refusal:
            RevealSecret(path=path).to_http()
        assert refusal.value.code == "validation_error"

    def test_has_one_segment_in_its_path_for_a_field_that_is_no_path(self) -> None:
        assert GetEvent(id="a/proof?x#y").to_http()[1] == "/v1/audit/events/a%2Fproof%3Fx%23y"
        assert RevealSecret(path="a b/c?d").to_http()[1] == "/v1/secrets/a%20b/c%3Fd/reveal"

    def test_shows_no_field_that_may_be_secret(self) -> None:
        call = PutSecret(path="db/password", value="correct horse")
        assert repr(call) == "<PutSecret: PUT /secrets/{path}>"
        assert "correct horse" not in f"{call} {[call]}"

    def test_is_compared_by_its_fields_and_cannot_be_changed(self) -> None:
        call = CreateApiToken(name="ci", scopes=["secrets:read"])
        assert call == CreateApiToken(name="ci", scopes=["secrets:read"])
        assert call != CreateApiToken(name="cd", scopes=["secrets:read"])
        with pytest.raises(AttributeError):
            call.name = "cd"  # type: ignore[misc]
