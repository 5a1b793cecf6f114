"""The description of the API: whole, and true to the contracts."""

import re
from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common.contracts.base import Nothing
from causeloop_gateway.documents import openapi
from causeloop_gateway.endpoints import Endpoint
from causeloop_gateway.problems import STATUS
from causeloop_gateway.routes import ENDPOINTS, STREAMS

if TYPE_CHECKING:
    from conftest import House

DESCRIBED = openapi.document()
OPERATIONS = {
    operation["operationId"]: operation for path in DESCRIBED["paths"].values() for operation in path.values()
}
ALL = (*ENDPOINTS, *STREAMS)
EVERY = pytest.mark.parametrize("endpoint", ALL, ids=lambda endpoint: endpoint.command.operation)
EACH = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.command.operation)


def references(part: Any) -> set[str]:
    if isinstance(part, dict):
        found = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return found.union(*map(references, part.values()))
    return set().union(*map(references, part)) if isinstance(part, list) else set()


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """What a reference leads to; anything else as it is."""
    found: Any = DESCRIBED if "$ref" in part else part
    for step in part.get("$ref", "").removeprefix("#/").split("/") if "$ref" in part else ():
        found = found[step]
    return dict(found)


class TestDocument:
    def test_is_openapi_3_1(self) -> None:
        assert re.fullmatch(r"3\.1\.\d+", DESCRIBED["openapi"])
        assert set(DESCRIBED["info"]) >= {"title", "version", "description"}
        assert set(DESCRIBED) >= {"openapi", "info", "paths", "components"}

    def test_every_route_is_described_once_under_v1_and_nothing_else_is(self) -> None:
        shown = {(method.upper(), path) for path, operations in DESCRIBED["paths"].items() for method in operations}
        assert shown == {(e.method, "/v1" + e.path.replace(":path}", "}")) for e in ALL}
        assert len(shown) == len(OPERATIONS) == len(ALL)

    def test_every_reference_leads_somewhere(self) -> None:
        assert all(resolved({"$ref": reference}) for reference in references(DESCRIBED))

    def test_names_a_server_and_describes_every_property(self) -> None:
        """F2: no `servers`, and 87 of 102 properties without a description."""
        assert DESCRIBED["servers"]
        bare = [
            f"{name}.{field}"
            for name, schema in DESCRIBED["components"]["schemas"].items()
            for field, described in schema.get("properties", {}).items()
            if not resolved(described).get("description") and not described.get("description")
        ]
        assert not bare

    def test_says_nothing_of_what_only_services_send_each_other(self) -> None:
        text = str(DESCRIBED)
        for hidden in ("subject_token_hash", "'position'", "next_position", "internal:"):
            assert hidden not in text, hidden


class TestOperations:
    @EVERY
    def test_names_permission_and_credentials(self, endpoint: Endpoint) -> None:
        operation = OPERATIONS[endpoint.command.operation]
        assert operation["x-credential"] == sorted(endpoint.credentials)
        if endpoint.credentials:
            assert operation["x-permission"] == endpoint.command.permission
            assert operation["security"] == [{"bearer": []}]
        else:
            assert operation["x-permission"] is None
            assert operation["security"] == []

    @EVERY
    def test_has_words(self, endpoint: Endpoint) -> None:
        """F2: 23 of 24 operations were described as "Never called"."""
        operation = OPERATIONS[endpoint.command.operation]
        assert operation["summary"]
        assert operation["description"]
        assert "Never called" not in operation["description"]
        assert operation["tags"] == [endpoint.command.service]

    @EVERY
    def test_every_refusal_is_described_with_a_whole_example_of_each_code(self, endpoint: Endpoint) -> None:
        """F2: 13 equal errors at each operation, with one unlucky code each."""
        responses = OPERATIONS[endpoint.command.operation]["responses"]
        shown = {status: resolved(response) for status, response in responses.items() if status[0] != "2"}
        assert set(responses) == {str(endpoint.status), *shown}
        for status, response in shown.items():
            content = response["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            for example in content["examples"].values():
                problem = example["value"]
                assert set(problem) - {"errors"} == {"type", "title", "status", "detail", "code", "trace_id"}
                assert ("errors" in problem) == (problem["code"] in ("validation_error", "secret_already_shown"))
                assert STATUS[problem["code"]] == (int(status), problem["title"])
                assert problem["code"] in response["description"]

    @EACH
    def test_the_answer_is_the_contract_s(self, endpoint: Endpoint) -> None:
        answer = OPERATIONS[endpoint.command.operation]["responses"][str(endpoint.status)]
        if endpoint.command.reply is Nothing:
            assert endpoint.status == 204
            assert "content" not in answer
        elif not endpoint.is_list:
            shown = answer["content"]["application/json"]["schema"]["$ref"]
            assert shown.rpartition("/")[2] == endpoint.command.reply.__name__

    @EACH
    def test_parameters_are_in_their_places(self, endpoint: Endpoint) -> None:
        parameters = map(resolved, OPERATIONS[endpoint.command.operation].get("parameters", []))
        shown = {(parameter["in"], parameter["name"]) for parameter in parameters}
        assert {name for place, name in shown if place == "path"} == set(endpoint.path_fields)
        fields = set(endpoint.command.fields()) - set(endpoint.path_fields) - set(endpoint.from_client)
        if endpoint.method == "GET":
            expected = {"cursor" if name == "position" and endpoint.is_list else name for name in fields}
            assert {name for place, name in shown if place == "query"} == expected
        else:
            body = OPERATIONS[endpoint.command.operation].get("requestBody", {"content": {}})
            schema = body["content"].get("application/json", {"schema": {"properties": {}}})["schema"]
            assert set(resolved(schema)["properties"]) == fields
        keyed = endpoint.method != "GET" and endpoint.command.keyed
        assert (("header", "Idempotency-Key") in shown) == keyed

    @pytest.mark.parametrize("endpoint", STREAMS, ids=lambda endpoint: endpoint.command.operation)
    def test_a_stream_s_answer_and_parameters_are_described(self, endpoint: Endpoint) -> None:
        operation = OPERATIONS[endpoint.command.operation]
        assert set(operation["responses"]["200"]["content"]) == {"text/event-stream"}
        assert {(p["in"], p["name"]) for p in operation["parameters"]} == {
            ("query", "from"),
            ("header", "Last-Event-ID"),
        }


async def test_is_served_as_it_is_committed(house: "House") -> None:
    answer = await house.http.get("/openapi.json")
    assert answer.json() == DESCRIBED
