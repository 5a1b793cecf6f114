"""Sample values for every statement: by the names of its values for a compiled one, in order for one that is text.

A statement that needs nothing else than `VALUES` has no line here. One that reads more rows than ten times those it
gives has a bound and a reason; one that reads a whole table, at a rare time, has the reason.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, combinations
from typing import Any

from causeloop_audit import models as audit
from causeloop_audit.repository import entries, watch
from causeloop_common import ids
from causeloop_common.rls import TENANT_SETTING, Visit
from causeloop_common.statements import Statement
from causeloop_vault import models as vault
from causeloop_vault.repository import reencryption
from tests.plans.grown import VERSIONS, WORKSPACES, person, tenant, thing

NOW = datetime.now(UTC)
NEW = thing(10**9)
HASH = bytes(32)
LIMIT = 26


@dataclass(frozen=True)
class Sample:
    """One way to run a statement. `role` is that of the service without its name, `most` the rows that it may read at
    most, None for any number; `because` the reason for either. Without a tenant it is run for all.
    """

    values: Mapping[str, Any] | Sequence[Any] = ()
    statement: Statement | str | None = None
    role: str = ""
    tenant: bool = True
    person: bool = False
    most: int | None = 0
    because: str = ""


def writer(*values: Any, most: int | None = 0, because: str = "") -> list[Sample]:
    return [Sample(values, role="_writer", tenant=False, most=most, because=because)]


VALUES: dict[str, dict[str, Any]] = {
    "auth": {
        "id": thing(3), "session": thing(3), "token": thing(3), "current": HASH, "new": HASH, "newer": [HASH],
        "old": HASH, "older": [HASH], "rotated_at": NOW, "created_at": NOW, "expires_at": NOW, "at": NOW,
        "entered": None, "workspace": None, "owner": person(1), "name": "ci", "scopes": ["secrets:read"],
        "digest": HASH, "before": ids.MAX, "limit": LIMIT,
    },
    "tenancy": {
        "name": "Acme", "slug": "acme", "timezone": "UTC", "created_by": person(0), "person_id": NEW, "role": "viewer",
        "person": person(0), "after": ids.NIL, "limit": LIMIT,
    },
    "vault": {
        "path": "p1", "id": thing(3), "expected": None, "version": 1, "sealed": "x", "created_by": "usr_x",
        "data_key": 1, "after": "", "limit": LIMIT, "name": "k3", "type": "aes256-gcm", "purpose": "auth/session",
        "record": "r3", "wrapped": "x", "master": "m", "public": HASH, "origin": "o", "size": 26, "root": HASH,
        "epoch": 10**6, "reason": "restored", "tenants": [tenant(0), tenant(1000)], "sizes": [26, 26],
        "roots": [HASH, HASH],
    },
    "audit": {
        "event_id": thing(3), "request_id": "request-24", "start": 0, "limit": LIMIT, "max_bytes": 1024 * 1024,
        "size": 25, "root": HASH, "note": "n", "epoch": 1, "entries": 25, "why": "it has 25 entries",
        "tenants": [tenant(0), tenant(1000)], "runs": [1, 1], "levels": [0, 0], "firsts": [16, 0], "counts": [8, 8],
        "sizes": [26, 26], "roots": [HASH, HASH], "notes": ["n", "n"], "epochs": [1, 1],
    },
}  # fmt: skip
"""By service and name, the values of its statements."""

_LOGS = [tenant(number) for number in (0, 1, 500, 1000, 1999)]
_EVENTS = ([tenant(0)] * 5, ["vault"] * 5, [thing(number) for number in (1, 2, 3, 4, 10**9)])
_TURN = {
    r"\bof_tenant\b": f"current_setting('{TENANT_SETTING}')::uuid",
    r"levels\[[^,)]*\]": "'{0,0,1}'::smallint[]",
    r"firsts\[[^,)]*\]": "'{512,16,0}'::bigint[]",
    r"counts\[[^,)]*\]": "'{128,8,32}'::bigint[]",
    r"sizes\[place\]": "30000",
    r"roots\[place\]": "sha256('')",
    r"notes\[place\]": "'n'",
    r"epochs\[place\]": "1",
}
"""What stands for the variables of a visit."""
_TRIED = entries._TRIED.keys()
_TRIED_AT_MOST = entries.MOST_TRIED
_BECAUSE = "a filter without an index is tried on so many entries for a page"
_LISTED: dict[str, Any] = {
    "actor": "a42", "action": "vault.secret_revealed", "target": "t42", "since": NOW - timedelta(days=10), "until": NOW,
}  # fmt: skip


def turns(visit: Visit, most: int = 0, because: str = "") -> list[Sample]:
    """The statements of a turn of a visit, in the tenant of the transaction."""
    statements = [part.replace("RETURN QUERY", "").strip() for part in visit.turn.split(";")]
    return [
        Sample((), _in_turn(text), most=most, because=because)
        for text in statements
        if text.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
    ]


def _in_turn(statement: str) -> str:
    for variable, value in _TURN.items():
        statement = re.sub(variable, value, statement)
    return statement


def _pages(**positions: Any) -> list[Sample]:
    """The first page, and one far on."""
    return [Sample(), Sample(positions)]


def _lists() -> Iterator[Sample]:
    """Every combination of filters, in both orders: the first page, and one far on."""
    for newest, position in ((True, ("before", 8000)), (False, ("after", 8000))):
        for names in chain.from_iterable(combinations(sorted(_LISTED), size) for size in range(len(_LISTED) + 1)):
            given = {name: _LISTED[name] for name in names}
            for more in ({}, dict([position])):
                values = given | more
                lists = entries._list(newest, tuple(sorted(values)))
                yield Sample(values, lists.page, most=_TRIED_AT_MOST if _TRIED & {*names} else 0, because=_BECAUSE)
                yield Sample(values, lists.last_tried, most=_TRIED_AT_MOST, because=_BECAUSE)


def _kinds() -> Iterator[Sample]:
    keys = {"name": "k{}", "path": "p{}", "purpose": "auth/session", "record": "r{}", "version": 1}
    for kind in reencryption._KINDS:
        rows = [
            {name: text.format(n) if isinstance(text := keys[name], str) else text for name in kind.key}
            for n in sorted(range(3000), key=str)[: reencryption.MOST_ROWS]
        ]
        bounds = {"rows": reencryption.MOST_ROWS, "bytes": reencryption.MOST_BYTES}
        for begin in (dict(zip(kind.key, kind.start, strict=True)), rows[20]):
            yield Sample(begin | bounds, kind.walk)
        columns = {name: [row[name] for row in rows] for name in kind.key}
        sealed = ["x" * 100] * len(rows)
        given = columns | {"old": sealed, "new": sealed}
        yield Sample(given, kind.reseal, most=10 * len(rows), because="those between the first and the last of a batch")
        yield Sample((), kind.number, most=None, because="once for a job that then reads all of it")


SAMPLES: dict[str, Sequence[Sample]] = {
    "causeloop_auth.repository._ADD_SESSION": [Sample({"id": NEW})],
    "causeloop_auth.repository._ADD_TOKEN": [Sample({"id": NEW})],
    "causeloop_auth.repository._TOKEN_BY_DIGEST": [Sample({"digest": HASH})],
    "causeloop_auth.repository._OWN_TOKENS": _pages(before=thing(2000)),
    "causeloop_tenancy.repository._MEMBERSHIPS": [
        Sample(
            {"after": after}, person=True, most=WORKSPACES,
            because="the policies, joined by OR, show the rest of the person's memberships, by two indexes",
        )
        for after in (ids.NIL, tenant(1500))
    ],
    "causeloop_vault.repository.checkpoints._OF_ALL_LOGS": [
        Sample(role="_jobs", tenant=False, most=None, because="asked by `audit recover`, which goes through all logs")
    ],
    "causeloop_vault.repository.keyrings._ADD_DATA_KEY": [Sample({"version": 10**6})],
    "causeloop_vault.repository.keys._ADD_KEY": [Sample(), Sample({"name": "new"})],
    "causeloop_vault.repository.keys._LIST_KEYS": _pages(after="k900"),
    "causeloop_vault.repository.reencryption._kind": [*_kinds()],
    "causeloop_vault.repository.secrets._WRITE": [Sample(), Sample({"expected": 1}), Sample({"path": "new"})],
    "causeloop_vault.repository.secrets._ADD_VERSION": [Sample({"version": 10**6})],
    "causeloop_vault.repository.secrets._LIST": _pages(after="p900"),
    "causeloop_vault.repository.secrets._SEALED": [Sample({"version": version}) for version in (None, 7, VERSIONS)],
    "causeloop_audit.repository.entries._OF_REQUEST": [
        Sample({"request_id": request}, most=1010, because="an index of requests would cost with every entry")
        for request in ("request-24", "request-x")
    ],
    "causeloop_audit.repository.entries._list": [*_lists()],
    "causeloop_audit.repository.entries._read": [
        Sample({"start": start}, entries._READ) for start in (0, 20, 10_000, 10**6)
    ],
    "causeloop_vault.models.LOCK_CHECKPOINTS": turns(vault.LOCK_CHECKPOINTS),
    "causeloop_vault.models.MOVE_CHECKPOINTS": turns(vault.MOVE_CHECKPOINTS),
    "causeloop_audit.models.LOG_STATES": turns(audit.LOG_STATES),
    "causeloop_audit.models.LOG_HASHES": turns(
        audit.LOG_HASHES, most=255 * 3, because="a run of at most 255 hashes is one row"
    ),
    "causeloop_audit.models.KEEP_CHECKPOINTS": turns(audit.KEEP_CHECKPOINTS),
    "causeloop_audit.repository.held._HOLD": writer(
        *([value] * 5 for value in (tenant(0), "vault")), [thing(10**9 + n) for n in range(5)], ["s"] * 5, [b"{}"] * 5,
        [b"x"] * 5, [NOW] * 5,
    ),
    "causeloop_audit.repository.held._COUNT": writer(1),
    "causeloop_audit.repository.held._KEPT": writer(*_EVENTS),
    "causeloop_audit.repository.held._LOGS": writer(),
    "causeloop_audit.repository.held._NEXT": [
        sample for log in (tenant(0), tenant(1000)) for sample in writer(log, 1000, 2**23)
    ],
    "causeloop_audit.repository.held._DROP": writer(tenant(0), 1000),
    "causeloop_audit.repository.position.READ": writer(),
    "causeloop_audit.repository.position._ADVANCE": writer(7),
    "causeloop_audit.repository.position._KEEP": writer("s", 7, 0),
    "causeloop_audit.repository.position._END_AGAIN": writer(),
    "causeloop_audit.repository.writer._LOCK_HEADS": writer(_LOGS),
    "causeloop_audit.repository.writer._ADD_HEADS": writer([NEW], HASH),
    "causeloop_audit.repository.writer._KNOWN": writer(*_EVENTS),
    "causeloop_audit.repository.writer._ADD_ENTRIES": writer(
        [20_000, 20_001], [tenant(0)] * 2, ["vault"] * 2, [NEW, thing(10**9 + 1)], [HASH] * 2, ["vault.x"] * 2,
        ["usr_x"] * 2, [None] * 2, ["sec_x"] * 2, ["req_x"] * 2, [NOW] * 2, [HASH] * 2, ["{}"] * 2,
    ),
    "causeloop_audit.repository.writer._ADD_NODES": writer([tenant(0)], [2], [10**6], [HASH]),
    "causeloop_audit.repository.writer._MOVE_HEADS": writer(_LOGS, [30_000] * 5, [HASH] * 5, [HASH] * 5, 7),
    "causeloop_audit.repository.writer._TERMS": writer(),
    "causeloop_audit.repository.watch._LAST_TERM": writer(),
    "causeloop_audit.repository.writer._KEEP_TERMS": writer("[]"),
    "causeloop_audit.repository.watch._ALL_BEHIND": [
        Sample(
            (ids.NIL, 500), watch._BEHIND, role="_writer", tenant=False, most=None,
            because="the signer compares the heads of all logs with what was signed of them",
        ),
        Sample((_LOGS,), watch._BEHIND_OF, role="_writer", tenant=False),
    ],
    "causeloop_audit.repository.watch._HEADS": writer(
        most=None, because="asked by `audit recover`, which goes through all logs"
    ),
    "causeloop_audit.repository.watch._LOGS": [
        sample for after in (ids.NIL, tenant(1000)) for sample in writer(after, 500)
    ],
    "causeloop_audit.repository.watch._REFUSED": writer(5),
    "causeloop_audit.repository.watch._COUNT_REFUSED": writer(),
    "causeloop_audit.repository.watch._COUNT": writer(
        most=None, because="asked where logs have lost their end, to see whether most have"
    ),
}  # fmt: skip
