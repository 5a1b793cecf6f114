"""What a service's page lists is what its contract, its models and the gateway's routes declare."""

from importlib import import_module

import pytest

from causeloop_common.contracts.base import commands, events
from causeloop_common.contracts.topology import ANNOUNCERS, CONSUMERS, OWNERS, listens
from causeloop_common.contracts.vault import PURPOSES
from causeloop_gateway.endpoints import Endpoint
from causeloop_gateway.problems import STATUS
from causeloop_gateway.routes import ENDPOINTS, STREAMS
from tests.documents.pages import SERVICE_PAGES, in_code, rows, section

GATEWAY = SERVICE_PAGES["gateway"]


def repeats(endpoint: Endpoint) -> str:
    """How a route takes an Idempotency-Key."""
    if endpoint.method == "GET":
        return "–"
    return "honoured" if endpoint.command.keyed else "ignored"


class TestRoutes:
    def test_the_gateways_page_lists_every_route_as_it_is_declared(self) -> None:
        declared = [
            [
                f"{route.method} /v1{route.path.replace(':path', '')}",
                f"`{route.command.subject}`",
                f"`{route.command.permission}`",
                ", ".join(sorted(route.credentials)) or "none",
                repeats(route),
                str(route.status),
            ]
            for route in (*ENDPOINTS, *STREAMS)
        ]
        assert sorted(rows(GATEWAY, "Routes")) == sorted(declared)

    def test_the_gateways_page_lists_every_error_code_and_its_status(self) -> None:
        printed = {in_code(code)[0]: int(status) for code, status, _ in rows(GATEWAY, "Errors")}
        assert printed == {code: status for code, (status, _) in STATUS.items()}


class TestMessages:
    @pytest.mark.parametrize("service", OWNERS)
    def test_a_page_lists_every_command_with_its_permission_and_issuers(self, service: str) -> None:
        printed = [row[:3] for row in rows(SERVICE_PAGES[service], "Answers")]
        declared = [
            [f"`{kind.subject}`", f"`{kind.permission}`", ", ".join(sorted(kind.issuers, reverse=True))]
            for kind in commands(OWNERS[service])
        ]
        assert sorted(printed) == sorted(declared)

    @pytest.mark.parametrize("service", ANNOUNCERS)
    def test_a_page_lists_every_event(self, service: str) -> None:
        declared = sorted(kind.type for kind in events(ANNOUNCERS[service]))
        if not declared:
            assert section(SERVICE_PAGES[service], "Announces").strip().startswith("Nothing")
            return
        assert sorted(in_code(row[0])[0] for row in rows(SERVICE_PAGES[service], "Announces")) == declared

    @pytest.mark.parametrize("service", ANNOUNCERS)
    def test_a_page_names_every_subject_its_service_listens_to(self, service: str) -> None:
        subjects = {*listens(service)}
        subjects |= {name for consumer in CONSUMERS if consumer.service == service for name in consumer.filters}
        named = in_code(section(SERVICE_PAGES[service], "Listens"))
        printed = {word for word in named if word in subjects or ".*." in word or ".>" in word}
        assert printed == subjects


class TestPurposes:
    def test_the_vaults_page_lists_every_purpose_its_issuer_and_when_a_record_ends(self) -> None:
        printed = [(name, issuer, until) for name, issuer, _, until in rows(SERVICE_PAGES["vault"], "Purposes")]
        assert sorted(printed) == sorted(
            (f"`{purpose.name}`", purpose.issuer, f"`{purpose.ends.type}`" if purpose.ends else "")
            for purpose in PURPOSES
        )


class TestTables:
    @pytest.mark.parametrize("service", OWNERS)
    def test_a_page_lists_every_table_that_is_its_services_own(self, service: str) -> None:
        # the platform's, the same in every schema
        shared = {"outbox", "outbox_set_aside", "relay_state", "idempotency", "inbox", "jobs", "leases", "schedules"}
        tables = import_module(f"causeloop_{service}.models").metadata.sorted_tables
        declared = sorted(table.fullname for table in tables if table.name not in shared)
        assert sorted(in_code(row[0])[0] for row in rows(SERVICE_PAGES[service], "Owns")) == declared
