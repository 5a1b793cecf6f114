"""The metrics of a running house are what happened."""

import re
from collections.abc import Callable

import pytest

from causeloop_common.contracts import topology
from tests.support.stack import Person, Stack, content_of, until


def values(text: str, name: str) -> list[float]:
    """The values of a metric, whatever its labels."""
    found = [line.rpartition(" ") for line in text.splitlines()]
    return [float(value) for series, _, value in found if series == name or series.startswith(f"{name}{{")]


@pytest.fixture
async def worked(stack: Stack, owner: Person) -> Person:
    for _ in range(3):
        content_of(await owner.put("/secrets/counted", json={"value": "v"}))
    await owner.log(least=6)
    return owner


class TestMetrics:
    @pytest.mark.parametrize("service", topology.SERVICES)
    async def test_of_every_service_say_what_runs_and_that_it_is_connected(self, stack: Stack, service: str) -> None:
        text = await stack.metrics(service)

        assert f'causeloop_build_info{{service="{service}",version="0.1.0"}} 1.0' in text
        assert f'causeloop_bus_connected{{service="{service}"}} 1.0' in text

    async def test_follow_an_act_from_the_gateway_to_the_log(self, stack: Stack, worked: Person) -> None:
        gateway, vault, audit = [await stack.metrics(service) for service in ("gateway", "vault", "audit")]

        assert sum(values(gateway, 'causeloop_memory_lookups_total{memory="identities",result="hit"}')) >= 1
        assert sum(values(gateway, 'causeloop_memory_lookups_total{memory="standings",result="miss"}')) >= 1
        for name, text in {
            "causeloop_database_transaction_seconds_count": vault,
            "causeloop_relay_batch_events_sum": vault,
            "causeloop_audit_appended_total": audit,
            "causeloop_audit_append_seconds_count": audit,
            "causeloop_audit_intake_batch_events_sum": audit,
            "causeloop_audit_intake_lag_seconds_count": audit,
        }.items():
            assert sum(values(text, name)) >= 1, name
        assert (
            values(audit, "causeloop_audit_intake_lag_seconds_sum")[0]
            < 60 * values(audit, "causeloop_audit_intake_lag_seconds_count")[0]
        )

    async def test_show_nothing_waiting_once_all_is_done(self, stack: Stack, worked: Person) -> None:
        for name, metric, state in (
            ("vault", "commands_held", "at_work"),
            ("auth", "commands_held", "waiting"),
            ("tenancy", "database_connections", "in_use"),
            ("audit", "database_connections", "waiting"),
        ):
            series = f'causeloop_{metric}{{service="{name}",state="{state}"}}'

            async def none(name: str = name, series: str = series) -> bool:
                return await stack.metric(name, series) == 0

            await until(f"no {series}", none)  # the house works on: audit has the vault sign, for one
        assert await stack.metric("vault", 'causeloop_database_connections{service="vault",state="idle"}') >= 1

        async def empty() -> bool:
            return await stack.metric("vault", 'causeloop_leader_lag_seconds{name="relay",service="vault"}') == 0

        await until("the outbox is empty", empty)

    async def test_have_no_label_that_is_a_tenant_a_person_or_a_path(
        self, stack: Stack, worked: Person, tell: Callable[[str], None]
    ) -> None:
        series = 0
        for service in topology.SERVICES:
            text = await stack.metrics(service)
            ours = [line for line in text.splitlines() if line.startswith("causeloop_")]
            assert not [line for line in ours if re.search(r"ws_|usr_|tok_|ses_|req_|counted", line)]
            series += len(ours)
        assert series < 3000
        tell(f"metrics: {series} series of five services")
