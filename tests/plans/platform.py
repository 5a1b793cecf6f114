"""Sample values for the statements that every service has from `causeloop_common`."""

from collections.abc import Sequence
from datetime import UTC, datetime

from causeloop_cli import services
from causeloop_common import ids, jobs, leases, outbox, schedules
from causeloop_common.contracts.announced import TEXTS
from causeloop_common.database import Database
from causeloop_common.relay import late, parts, receipts, rewind, work
from causeloop_common.rls import proof
from causeloop_common.rls.ddl import GUARD_BODY
from causeloop_common.worker.commands import JobService
from causeloop_common.worker.runs import _statements
from tests.plans.grown import tenant, thing
from tests.plans.samples import HASH, LIMIT, NEW, NOW, Sample

ELSEWHERE = {
    "causeloop_common.migrations.": "run once, by `migrate`",
    "causeloop_common.outbox.ddl": "run once, by a migration",
    "causeloop_common.outbox.receipts_ddl": "run once, by a migration",
    "causeloop_common.leader.Leader._take": "a sentence for an operator",
    "causeloop_common.leases.add": "run once, by a migration",
    "causeloop_common.leases._FENCE": "one row by its key, in a table of a few",
    "causeloop_common.rls.": "reads the catalogue, which has nothing of tenants",
    "causeloop_common.relay.receipts._REMEMBERED": "part of two others",
    "causeloop_common.relay.emptying.OldPartition._empty": "locks and empties a partition, and reads nothing",
    "causeloop_vault.repository.keyrings.IS_PRIMARY": "part of two others",
}
"""Places, or what they begin with, whose statements are not tried here, with the reasons."""

_PAST = datetime(2020, 1, 1, tzinfo=UTC)
_COMMAND = ("usr_x", "vault.put_secret", "k3")
_PART = {"most": 2 * parts.PART, "because": "a part of a walk through an outbox"}
_BOUND = {"most": late.MOST, "because": "rows that were not published, among the first of which it looks for one"}


def words(schema: str) -> dict[str, str]:
    """The words that stand for others in a statement that is written for every service."""
    return {
        "schema": schema, "fence": "true", "soon": leases.SOON, "event": ", ".join(outbox.EVENT),
        "batch": str(work.BATCH), "most": str(late.MOST), "first": str(late._FIRST), "form": outbox.form(schema),
        "due": receipts._DUE,
    }  # fmt: skip


def relay(*values: object, **more: object) -> list[Sample]:
    return [Sample(values, role="_relay", tenant=False, **more)]  # type: ignore[arg-type]


def worker(*values: object, **more: object) -> list[Sample]:
    return [Sample(values, role="_jobs", tenant=False, **more)]  # type: ignore[arg-type]


def samples(schema: str) -> dict[str, Sequence[Sample]]:
    """By place, how each statement is tried in a schema; none where the schema has not got its table."""
    tables = services.tables(schema)
    about = JobService(Database("postgresql://none/none", schema, tables))
    runs = _statements(schema)
    guard = GUARD_BODY.format(schema=schema, state="").partition("NOT EXISTS (")[2].partition(") OR")[0]
    taken = {
        parts.BY_BATCH: (50,),
        parts.BY_ACT: (_PAST,),
        rewind._MAY_BE_LOST: (29_000,),
    }
    return {
        "causeloop_common.idempotency.find": [Sample(_COMMAND)],
        "causeloop_common.idempotency.forget": [Sample(_COMMAND)],
        "causeloop_common.idempotency.remember": [Sample(("usr_x", "vault.put_secret", "new", "f", "{}"))],
        "causeloop_common.inbox.claim": [
            Sample(("vault", event)) for event in (thing(3), NEW) if f"{schema}.inbox" in tables.tables
        ],
        "causeloop_common.jobs.enqueue": [
            Sample((NEW, "k", "{}", NOW, *("0" if name == "assurance" else None if name in _NULL else "x"
                                           for name in jobs.IDENTITY), "r", "t"))
        ],
        "causeloop_common.jobs.advance": [Sample((thing(3), 0, "c", 1, None, None, None, None, None, 0.0))],
        "causeloop_common.jobs.open_one": [Sample((kind,)) for kind in ("reencrypt_keyring", "another")],
        "causeloop_common.leases.take": [
            *relay("relay", thing(1), statement=leases.take(schema, 2)),
        ],
        "causeloop_common.leases.renew": relay("relay", thing(1), 1, statement=leases.renew(schema, 2)),
        "causeloop_common.leases.release": relay("relay", thing(1), 1),
        "causeloop_common.outbox.insert": [
            Sample((NEW, f"{schema}.thing_done", NOW, "{}", *("0" * 32 if name == "salt" else "x"
                                                            for name in TEXTS)))
        ],
        "causeloop_common.relay.emptying._WAITS": [sample for bucket in (0, 2) for sample in relay(bucket)],
        "causeloop_common.relay.late._OLDEST": relay(),
        "causeloop_common.relay.late._UNRECEIPTED": relay(
            600.0, most=None, because="asked by `doctor` alone"
        ),
        "causeloop_common.relay.late._LONGEST": relay(most=2 * late._FIRST, because="the oldest of the first"),
        "causeloop_common.relay.parts.take_back": [
            sample
            for condition, (value,) in taken.items()
            for place in (parts.BEGINNING, (1, 15_000))
            for sample in relay(
                value, *place, *([NOW] if condition == rewind._MAY_BE_LOST else []),
                statement=parts.take_back(schema, condition, waiting=parts.WAITING if value == _PAST else "false"),
                **_PART,
            )
        ],
        "causeloop_common.relay.parts.newest": [
            *relay(*parts.BEGINNING, None, **_PART),
            *relay(1, 15_000, None, 1, statement=parts.newest(schema, "bucket = $4::smallint"), **_PART),
        ],
        "causeloop_common.relay.receipts._CONFIRM": relay([2, 2], [29_000, 29_001], [29_000, 29_001], [60, 60]),
        "causeloop_common.relay.receipts._FIND_AND_CONFIRM": relay([29_000], [NEW], [HASH], [60]),
        "causeloop_common.relay.receipts._SET_ASIDE": relay([29_000], [NEW]),
        "causeloop_common.relay.receipts._SEND_AGAIN": [
            *relay(29_400, 10**6, 5.0, 300.0, 200, 0),
            *relay(28_000, 29_400, 5.0, 300.0, 200, 28_000),
        ],
        "causeloop_common.relay.receipts._STATE": relay(),
        "causeloop_common.relay.receipts._BEGIN_TERM": relay("t", 1),
        "causeloop_common.relay.work._PENDING": relay(),
        "causeloop_common.relay.work._MARK": relay([2, 2], [29_501, 29_502], [1, 2], [HASH, HASH], 2),
        "causeloop_common.relay.work._REMEMBER": relay(1, "s"),
        "causeloop_common.relay.work._ASIDE": relay(),
        "causeloop_common.relay.work._SET_ASIDE": relay(**_BOUND),
        "causeloop_common.relay.work._REMEMBERED": relay(),
        "causeloop_common.rls.ddl.GUARD_BODY": [
            Sample((tenant(0),), guard.replace("coalesce(NEW.workspace_id, OLD.workspace_id)", "$1::uuid"))
        ],
        "causeloop_common.rls.proof.look": [
            Sample((), proof.look(table), tenant=False)
            for table in tables.sorted_tables
            if "select" in table.info["rls"].verbs
        ],
        "causeloop_common.schedules.due": worker(["forget_expired"], [3600.0]),
        "causeloop_common.schedules.begin": worker("forget_expired", 3600.0),
        "causeloop_common.schedules.end": worker("forget_expired", 3600.0),
        "causeloop_common.schedules.forget": [
            sample
            for table in tables.sorted_tables
            if "expired" in table.info
            for sample in worker(statement=schedules.forget(table))
        ],
        "causeloop_common.worker.commands.JobService.__init__": [
            Sample({"id": thing(3)}, about._get),
            Sample({"id": thing(0)}, about._cancel),
            *(
                Sample({"kinds": ["reencrypt_keyring"], "before": before, "limit": LIMIT}, about._list)
                for before in (ids.MAX, thing(2000))
            ),
        ],
        "causeloop_common.worker.runs._statements": [
            Sample({"id": thing(0), "term": 0}, runs.load),
            Sample({"id": thing(0), "term": 0, "delay": 1.0, "error": None}, runs.again),
        ],
        "causeloop_common.worker.takes._TAKE": worker(5.0),
        "causeloop_common.worker.takes._RENEW": worker(5.0, [tenant(0)], [thing(0)], [0]),
        "causeloop_common.worker.takes._GIVE_BACK": worker(tenant(0), thing(0), 0),
        "causeloop_common.worker.takes._OLDEST": worker(),
    }  # fmt: skip


_NULL = ("credential", "authenticated_at", "on_behalf_of")
