"""One request can be followed from HTTP through the services to its audit entry, by its id and its trace."""

import re
import secrets

import pytest

from causeloop_common import ids
from causeloop_common.telemetry.tracing import ATTRIBUTES
from tests.support.bus import through
from tests.support.collector import Collected, Collector
from tests.support.stack import Person, Stack, content_of, refused, until


def trace() -> tuple[str, str]:
    """A traceparent of a caller, and its trace id."""
    trace_id = secrets.token_hex(16)
    return f"00-{trace_id}-{secrets.token_hex(8)}-01", trace_id


class TestTheSpansOfARequest:
    async def test_lead_from_the_access_log_through_every_service_to_the_place_in_the_log(
        self, stack: Stack, owner: Person, collector: Collector
    ) -> None:
        traceparent, trace_id = trace()
        request_id = f"client-{secrets.token_hex(6)}"
        headers = {"traceparent": traceparent, "x-request-id": request_id}
        content_of(await owner.put("/secrets/spans", json={"value": "v"}, headers=headers))
        entry = next(entry for entry in await owner.log(least=4) if entry["action"] == "vault.secret_written")

        async def arrived() -> list[Collected]:
            way = _causes(collector.trace(trace_id), entry["id"])
            return way if way and way[0].name.startswith("PUT") else []

        spans = await until("every span on the way arrived", arrived)
        assert [(span.service, span.kind, span.name) for span in spans] == [
            ("causeloop-gateway", "SERVER", "PUT /v1/secrets/{path}"),
            ("causeloop-gateway", "CLIENT", "cmd.vault.put_secret"),
            ("causeloop-vault", "SERVER", "cmd.vault.put_secret"),
            ("causeloop-vault", "CLIENT", "vault transaction"),
            ("causeloop-vault", "PRODUCER", "evt.vault.secret_written"),
            ("causeloop-audit", "CONSUMER", "audit.append"),
        ]
        assert [span.parent for span in spans] == [traceparent.split("-")[2], *(span.span_id for span in spans[:-1])]
        assert not any(span.is_error for span in spans)
        assert all(span.attributes["causeloop.tenant"] == owner.workspace for span in spans)
        assert {span.resource["service.version"] for span in spans} == {"0.1.0"}
        http, append = spans[0].attributes, spans[-1].attributes
        assert (http["http.route"], http["http.response.status_code"]) == ("/v1/secrets/{path}", 200)
        assert (append["causeloop.log_index"], append["causeloop.event_id"]) == (entry["index"], entry["id"])
        assert append["causeloop.action"] == "vault.secret_written"

        async def logged() -> list[dict[str, object]]:
            return [line for line in stack.log("gateway") if line.get("request_id") == request_id]

        (line,) = await until("the gateway logged the request", logged)
        assert line["trace_id"] == trace_id

    async def test_of_a_client_without_a_trace_begin_one(
        self, stack: Stack, owner: Person, collector: Collector
    ) -> None:
        request_id = f"client-{secrets.token_hex(6)}"
        content_of(await owner.get("/workspace", headers={"x-request-id": request_id}))

        async def arrived() -> list[Collected]:
            mine = [span for span in collector.spans if span.attributes.get("causeloop.request_id") == request_id]
            return [span for span in mine if not span.parent]

        (root,) = await until("the root arrived", arrived)
        assert root.name == "GET /v1/workspace"
        (line,) = (line for line in stack.log("gateway") if line.get("request_id") == request_id)
        assert line["trace_id"] == root.trace_id

    async def test_that_is_refused_say_why_by_its_code(self, owner: Person, collector: Collector) -> None:
        traceparent, trace_id = trace()
        refused(await owner.get("/secrets/none", headers={"traceparent": traceparent}), 404, "not_found")

        async def arrived() -> list[Collected]:
            names = ("GET /v1/secrets/{path}", "cmd.vault.get_secret")
            spans = [span for span in collector.trace(trace_id) if span.name in names]
            return spans if len(spans) == 3 else []

        spans = await until("the spans arrived", arrived)
        assert {span.attributes["error.type"] for span in spans} == {"not_found"}
        assert not any(span.is_error for span in spans)  # an answer, and no fault

    async def test_are_not_kept_where_the_client_says_so(
        self, owner: Person, collector: Collector, stack: Stack
    ) -> None:
        traceparent, trace_id = trace()
        request_id = f"client-{secrets.token_hex(6)}"
        headers = {"traceparent": f"{traceparent[:-2]}00", "x-request-id": request_id}
        content_of(await owner.put("/secrets/unsampled", json={"value": "v"}, headers=headers))
        await owner.log(least=4)
        async with stack.sql() as sql:
            kept = await sql.fetchval("SELECT traceparent FROM vault.outbox WHERE request_id = $1 LIMIT 1", request_id)
        assert kept[3:35] == trace_id
        assert kept.endswith("-00")  # and it is passed on to the next

        later, later_id = trace()
        content_of(await owner.put("/secrets/sampled", json={"value": "v"}, headers={"traceparent": later}))

        async def arrived() -> list[Collected]:
            return [span for span in collector.trace(later_id) if span.name == "audit.append"]

        await until("what came later arrived", arrived)
        assert collector.trace(trace_id) == []

    async def test_have_names_of_which_there_are_few(self, owner: Person, collector: Collector) -> None:
        for number in range(3):
            content_of(await owner.put(f"/secrets/many/{number}", json={"value": "v"}))
        refused(await owner.get("/nowhere/at/all"), 404, "not_found")
        await owner.log(least=4)
        names = {span.name for span in collector.spans}
        assert len(names) < 100
        assert not [name for name in names if "many" in name or "nowhere" in name or "ws_" in name]
        assert {name for span in collector.spans for name in span.attributes} <= ATTRIBUTES


def _causes(spans: list[Collected], event_id: str) -> list[Collected]:
    """From the first cause to the appending of an event, parent by parent."""
    by_id = {span.span_id: span for span in spans}
    way = [span for span in spans if span.name == "audit.append" and span.attributes["causeloop.event_id"] == event_id]
    while way and way[0].parent in by_id:
        way.insert(0, by_id[way[0].parent])
    return way


class TestARequest:
    async def test_is_found_by_its_ids_in_answer_log_outbox_bus_and_audit_entry(
        self, stack: Stack, owner: Person
    ) -> None:
        traceparent, trace_id = trace()
        request_id = f"client-{secrets.token_hex(6)}"
        headers = {"traceparent": traceparent, "x-request-id": request_id}
        async with stack.on_bus(None) as observer:
            heard = await observer.subscribe(f"evt.{owner.workspace}.vault.secret_written")
            asked = await observer.subscribe("cmd.vault.put_secret")
            await through(observer)
            answer = await owner.put("/secrets/traced", json={"value": "v"}, headers=headers)
            command, event = await asked.next_msg(5), await heard.next_msg(5)
        content_of(answer)

        assert answer.headers["x-request-id"] == request_id
        asked_with, heard_with = command.headers or {}, event.headers or {}
        for carried in (asked_with, heard_with):
            _, told_trace, span, _ = carried["traceparent"].split("-")
            assert told_trace == trace_id
            assert span != traceparent.split("-")[2]  # a span of its own
        assert asked_with["Causeloop-Request-Id"] == request_id
        assert heard_with["ce-requestid"] == request_id

        entry = (await owner.log(least=4))[-1]
        assert (entry["action"], entry["request_id"]) == ("vault.secret_written", request_id)
        async with stack.sql() as sql:
            kept = await sql.fetch("SELECT request_id, traceparent FROM vault.outbox WHERE request_id = $1", request_id)
        assert {row["traceparent"][3:35] for row in kept} == {trace_id}

        async def logged() -> list[dict[str, object]]:
            return [line for line in stack.log("gateway") if line.get("request_id") == request_id]

        (line,) = await until("the gateway logged the request", logged)
        assert (line["trace_id"], line["tenant"], line["service"]) == (trace_id, owner.workspace, "gateway")
        assert line["message"] == "PUT /v1/secrets/{path:path} 200"

    async def test_leads_from_log_line_to_audit_entry_without_a_collector_too(self, fragile: Stack) -> None:
        person, request_id = await fragile.sign_up(), f"client-{secrets.token_hex(6)}"
        content_of(await person.put("/secrets/traced", json={"value": "v"}, headers={"x-request-id": request_id}))

        async def logged() -> list[dict[str, object]]:
            return [line for line in fragile.log("gateway") if line.get("request_id") == request_id]

        (line,) = await until("the gateway logged the request", logged)
        entry = (await person.log(least=4))[-1]
        async with fragile.sql() as sql:
            event = ids.decode(entry["id"], "evt")
            sent = await sql.fetchval("SELECT traceparent FROM vault.outbox WHERE event_id = $1", event)
        assert re.fullmatch(rf"00-{line['trace_id']}-[0-9a-f]{{16}}-03", sent)

    async def test_that_fails_in_a_service_is_found_in_the_log_of_that_service(
        self, stack: Stack, owner: Person
    ) -> None:
        content_of(await owner.put("/secrets/broken", json={"value": "v"}))
        async with stack.sql() as sql, sql.transaction():
            await sql.execute("SET LOCAL session_replication_role = replica")
            await sql.execute(
                "UPDATE vault.secret_versions SET sealed = 'clv1:1:broken' WHERE workspace_id = $1",
                ids.tenant_uuid(owner.workspace),
            )
        traceparent, trace_id = trace()
        answer = await owner.post("/secrets/broken/reveal", headers={"traceparent": traceparent})
        problem = refused(answer, 500, "internal_error")
        assert problem["trace_id"] == answer.headers["x-request-id"]
        assert "clv1" not in answer.text

        async def logged() -> list[dict[str, object]]:
            return [line for line in stack.log("gateway") if line.get("request_id") == problem["trace_id"]]

        (line,) = await until("the gateway logged the failure", logged)
        assert line["trace_id"] == trace_id

    @pytest.mark.parametrize("given", ["short", "x" * 65, "with space 1", "naïve-naïve", "a/b/c/d/e/f", "${jndi:ldap}"])
    async def test_with_an_id_that_is_not_well_formed_gets_one_of_ours(self, stack: Stack, given: str) -> None:
        answer = await stack.http.get("/v1/secrets", headers=[(b"x-request-id", given.encode())])
        problem = refused(answer, 401, "unauthorized")
        assert re.fullmatch(r"req_[0-9a-z]{26}", problem["trace_id"])

    @pytest.mark.parametrize(
        "given",
        [
            "00-00000000000000000000000000000000-0000000000000001-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "nonsense",
            "",
        ],
    )
    async def test_with_a_trace_that_is_not_well_formed_starts_one(
        self, stack: Stack, owner: Person, given: str
    ) -> None:
        request_id = f"client-{secrets.token_hex(6)}"
        headers = {"traceparent": given, "x-request-id": request_id}
        content_of(await owner.put("/secrets/t", json={"value": "v"}, headers=headers))
        async with stack.sql() as sql:
            kept = await sql.fetchval("SELECT traceparent FROM vault.outbox WHERE request_id = $1 LIMIT 1", request_id)
        assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-03", kept)  # sampled, a random id
        assert kept[3:35] not in given
