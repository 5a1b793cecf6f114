"""Another service's values in the vault: stored, opened and deleted over the bus, each act in the workspace's log."""

import pytest

from causeloop_common.contracts.vault import DeleteSealedValue, OpenSealedValue, StoreSealedValue
from causeloop_common.errors import Forbidden, NotFound
from causeloop_common.permissions import Internal
from tests.support.bus import asking
from tests.support.forks import PROBE
from tests.support.stack import Person, Stack, until


class TestSealedValues:
    async def test_are_stored_opened_and_deleted_by_their_service_and_recorded(
        self, stack: Stack, owner: Person
    ) -> None:
        ctx = asking(owner.workspace, owner.id, *Internal, issuer="auth")
        values = {f"record-{number}": f"value {number} ✓" for number in range(20)}
        async with stack.bus_of("auth") as auth:
            for record, value in values.items():
                named = {"purpose": PROBE.name, "record": record}
                await auth.call(ctx, StoreSealedValue.model_validate({**named, "plaintext": value}))
            for record, value in values.items():
                answer = await auth.call(ctx, OpenSealedValue(purpose=PROBE.name, record=record))
                assert answer.plaintext.get_secret_value() == value
            for record in values:
                await auth.call(ctx, DeleteSealedValue(purpose=PROBE.name, record=record))
            with pytest.raises(NotFound, match="There is no sealed value of 'record-0'"):
                await auth.call(ctx, OpenSealedValue(purpose=PROBE.name, record="record-0"))
            with pytest.raises(Forbidden, match="purpose 'factor' is not the asking service's"):
                await auth.call(ctx, OpenSealedValue(purpose="factor", record="record-0"))

        async def arrived() -> bool:
            found = [(entry["action"], entry["target"]) for entry in await owner.log()]
            return all(
                found.count((f"vault.sealed_value_{act}", record)) == 1
                for record in values
                for act in ("stored", "opened", "deleted")
            )

        await until("each act has its entry", arrived)
