"""What the security model lists is what the code declares: roles, policies, keys, permissions on the bus."""

import ast
import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Table

from causeloop_cli import services
from causeloop_common import rls
from causeloop_common.application import GRACE_SECONDS
from causeloop_common.contracts import topology
from causeloop_common.contracts.base import COMMAND_TIMEOUT_SECONDS, EVENT_BYTES
from causeloop_common.contracts.limits import EVERYWHERE
from causeloop_common.contracts.topology import DEAD, EVENTS, MAX_PAYLOAD_BYTES, OPERATOR, OWNERS, SERVICES
from causeloop_common.messaging.wire import HEADROOM_BYTES
from causeloop_common.rls import STATEMENT_TIMEOUT_SECONDS, Protection
from causeloop_gateway.inbound import ANONYMOUS_BODY_BYTES, BODY_BYTES, BODY_SECONDS, HEAD_SECONDS, HEADER_BYTES
from causeloop_gateway.streams.registry import OF_PRINCIPAL, OF_PROCESS, OF_WORKSPACE
from causeloop_vault.app import REMEMBERED, REMEMBERED_SECONDS
from tests.documents.pages import ROOT, in_code, rows, text

PAGE = "docs/security-model.md"


def tables() -> list[Table]:
    return [table for owner in OWNERS for table in services.tables(owner).sorted_tables]


def of_each_service(cell: str) -> list[str]:
    """The names of a cell; one with `<s>` is of each of the services in brackets behind it."""
    services = cell.partition("(")[2].rstrip(")").split(", ")
    return [name.replace("<s>", service) for name in in_code(cell) for service in (services if "<s>" in name else [""])]


class TestTheDatabase:
    def test_prints_every_table_that_changes_without_an_event_and_why(self) -> None:
        block = text(PAGE).partition("<!-- unaudited:begin -->")[2].partition("<!-- unaudited:end -->")[0]
        printed = dict(re.findall(r"^\| `?([a-z_]+\.[a-z_]+)`? \| (.+?) \|$", block, re.MULTILINE))
        declared = dict(table for owner in OWNERS for table in rls.unaudited(services.tables(owner)))
        assert printed == declared

    def test_lists_every_role(self) -> None:
        printed = {
            name.replace("<s>", service)
            for cell, *_ in rows(PAGE, "Database roles")
            for name in in_code(cell)
            for service in (cell.partition("(")[2].rstrip(")").split(", ") if "(" in cell else OWNERS)
        }
        assert printed == {
            role for owner in OWNERS for role in (f"causeloop_{owner}_owner", *rls.roles(services.tables(owner)))
        }

    def test_lists_the_verbs_and_the_other_policies_of_every_table(self) -> None:
        printed = {
            name: (tuple(re.findall(r"\b(select|insert|update|delete)\b(?!_)", re.sub(r"\(.*?\)", "", verbs))), others)
            for cell, verbs, others in rows(PAGE, "Policies")
            for name in of_each_service(cell)
        }
        assert set(printed) == {table.fullname for table in tables()}
        for table in tables():
            protection: Protection = table.info["rls"]
            verbs, others = printed[table.fullname]
            assert verbs == protection.verbs, table.fullname
            named = [name for name in in_code(others) if re.search("_(select|insert|update|delete)$", name)]
            assert named == sorted(named, key=[policy.name for policy in protection.extra].index), table.fullname
            assert set(named) == {policy.name for policy in protection.extra}, table.fullname

    def test_lists_the_columns_to_which_a_grant_is_narrowed(self) -> None:
        cells = {name: row for row in rows(PAGE, "Policies") for name in of_each_service(row[0])}
        for table in tables():
            protection: Protection = table.info["rls"]
            for policy, columns in (protection.columns or {}).items():
                cell = cells[table.fullname][1 if policy.startswith("tenant_") else 2]
                verb = re.escape(policy.removeprefix("tenant_")) if policy.startswith("tenant_") else f"`{policy}`"
                found = re.search(rf"{verb} \((all but )?(.*?)\)", cell)
                assert found is not None, (table.fullname, policy)
                printed = set(in_code(found[2]))
                if found[1]:
                    printed = {column.name for column in table.columns} - printed
                assert printed == set(columns), (table.fullname, policy)


class TestTheKeys:
    def test_lists_every_name_that_a_key_is_derived_under(self) -> None:
        printed = {pattern(name) for cell, *_ in rows(PAGE, "Keys") for name in in_code(cell)}
        assert printed == {pattern(name) for name, _ in derived()}

    def test_says_which_services_own_key_it_is(self) -> None:
        origins = {in_code(cell)[0]: origin for cell, origin, *_ in rows(PAGE, "Keys")}
        of_all = {"common": "<service>"}
        own = {name: f"`own/v1/{of_all.get(service, service)}`" for name, service in derived() if service}
        assert own
        assert {name: origin for name, origin in origins.items() if origin.startswith("`own/")} == own

    def test_lists_the_pairs_of_every_service_and_the_keys_of_its_own(self) -> None:
        printed = {
            service: (set(pairs.split(", ")), in_code(own)) for service, pairs, own in rows(PAGE, "Keys", table=1)
        }
        for service in SERVICES:
            common = "common" if service in topology.OWNERS else None  # those with an outbox
            pairs = {f"{issuer}>{audience}" for issuer, audience in topology.pairs() if service in (issuer, audience)}
            assert printed[service] == (pairs, sorted(name for name, owner in derived() if owner in (service, common)))


class TestTheBus:
    @pytest.mark.parametrize("service", [*SERVICES, *map(topology.reader, topology.readers()), OPERATOR])
    def test_lists_what_a_credential_publishes_and_subscribes_to(self, service: str) -> None:
        ((_, asks, publishes, subscribes),) = (row for row in rows(PAGE, "Bus permissions") if row[0] == service)
        allowed = topology.permissions(service)
        commands = {subject for subject in allowed.publish if subject.startswith("cmd.")}
        named = set(in_code(asks))
        assert (set(topology.command_kinds()) - named if asks.startswith("all but") else named) == commands
        assert {*in_code(publishes)} == set(allowed.publish) - commands
        assert set(in_code(subscribes)) == set(allowed.subscribe)


def pattern(name: str) -> str:
    """A name with `*` for each part that differs from key to key."""
    return re.sub(r"<\w+>|\{[\w.]+\}", "*", name)


def derived() -> Iterator[tuple[str, str]]:
    """Every name under which production code derives a key, and the service whose own key it is, if it is one's."""
    for path in (*ROOT.glob("libs/*/causeloop_*/**/*.py"), *ROOT.glob("services/*/causeloop_*/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "own" and node.args:
                yield written(node.args[0]), path.relative_to(ROOT).parts[2].removeprefix("causeloop_")
            elif called == "derive" and isinstance(node.func, ast.Name):
                if isinstance(node.args[1], ast.Constant | ast.JoinedStr):
                    yield written(node.args[1]), ""
            elif called == "HKDF":
                (info,) = (keyword.value for keyword in node.keywords if keyword.arg == "info")
                if isinstance(info, ast.Constant):
                    yield written(info), ""


def written(node: ast.expr) -> str:
    """A constant text, or an f-string with `{…}` for what it fills in."""
    if isinstance(node, ast.Constant):
        return node.value.decode() if isinstance(node.value, bytes) else str(node.value)
    return ast.unparse(node)[2:-1]


class TestTheLimits:
    def test_are_those_of_the_code(self) -> None:
        printed = {what: limit for what, limit, _ in rows(PAGE, "Limits")}
        kib, gib = 1024, 1024**3
        declared = {
            "headers and request line": f"{HEADER_BYTES // kib} KiB, within {HEAD_SECONDS:g} s",
            "body": f"{BODY_BYTES // kib**2} MiB ({ANONYMOUS_BODY_BYTES // kib} KiB without a credential), "
            f"within {BODY_SECONDS:g} s",
            "command or reply on the bus": f"{MAX_PAYLOAD_BYTES // kib**2} MiB less {HEADROOM_BYTES // kib} KiB",
            "event": f"{EVENT_BYTES // kib} KiB",
            "command": f"{COMMAND_TIMEOUT_SECONDS:g} s",
            "statement, or idle in transaction": f"{STATEMENT_TIMEOUT_SECONDS} s",
            "stream EVENTS": f"{EVENTS.max_age_seconds // 86_400} days, {EVENTS.max_bytes // gib} GiB, new messages "
            f"refused when full; duplicates known for {EVENTS.duplicate_window_seconds // 3600} h",
            "stream DEAD": f"{DEAD.max_age_seconds // 86_400} days, {DEAD.max_bytes // gib} GiB",
            "keyrings and named keys in the vault's memory": f"{REMEMBERED:_} tenants and {REMEMBERED:_} "
            f"keys, {REMEMBERED_SECONDS // 60:g} minutes",
            "drain at stop": f"{GRACE_SECONDS:g} s",
            "streams open at a gateway": f"{OF_PRINCIPAL} per principal, {OF_WORKSPACE} per workspace, {OF_PROCESS}",
        }
        assert {what: printed.get(what) for what in declared} == {
            what: limit.replace("_", " ") for what, limit in declared.items()
        }

    def test_of_rate_are_those_of_the_contracts(self) -> None:
        printed = {
            in_code(policy)[0]: (requests, within, counted.partition(":")[0].partition(",")[0])
            for policy, requests, within, counted in rows(PAGE, "Rate limits")
        }
        own = {kind.operation: kind.rate_limit for kind in topology.command_kinds().values() if kind.rate_limit}
        declared = {
            name: (str(limit.requests), f"{limit.per} s", limit.by)
            for name, limit in [*((limit.by, limit) for limit in EVERYWHERE), *own.items()]
        }
        assert {name: row[:2] for name, row in printed.items()} == {name: row[:2] for name, row in declared.items()}
        assert all(printed[name][2] == declared[name][2] for name in own)
