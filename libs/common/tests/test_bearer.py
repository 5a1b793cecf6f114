"""The claim of a bearer token: read of anything, and never trusted. auth's tests compare it with what auth makes."""

import base64
import json
from typing import Any

from causeloop_common import ids
from causeloop_common.contracts.bearer import claimed
from causeloop_dev.testing import person

PERSON, WORKSPACE = person(), ids.new("ws")


def session(claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2lnbmF0dXJl"


def handle(tenant: str = WORKSPACE, owner: str = PERSON) -> str:
    return f"clp_pat_{tenant}_{owner[4:]}{ids.new('tok')[4:]}{'a' * 52}_0123abcd"


UNTRUE = [
    "", "a", "a.b.c", "..", "\u00e9.\u00e9.\u00e9", "x" * 4096, "clp_pat_x", handle()[:-1], f"{handle()}\n",
    f"e30.{base64.urlsafe_b64encode(b'[' * 3000).decode()}.e30",
    session([]), session(7), session(None), session({}), session({"ten": WORKSPACE}), session({"sub": PERSON}),
    session({"ten": 7, "sub": PERSON}), session({"ten": [WORKSPACE], "sub": PERSON}),
    session({"ten": WORKSPACE, "sub": {}}), session({"ten": "ws_x", "sub": PERSON}),
    session({"ten": WORKSPACE, "sub": WORKSPACE}), session({"ten": PERSON.replace("usr", "ws"), "sub": PERSON}),
    session({"ten": WORKSPACE, "sub": WORKSPACE.replace("ws", "usr")}),
    session({"ten": WORKSPACE, "sub": f"{PERSON}.>"}), session({"ten": f"{WORKSPACE}.*", "sub": PERSON}),
    handle(owner=WORKSPACE.replace("ws_", "usr_")), handle(tenant=PERSON),
]  # fmt: skip


class TestClaimed:
    def test_is_of_a_session_its_tenant_and_its_person(self) -> None:
        for tenant in (WORKSPACE, PERSON):
            assert claimed(session({"ten": tenant, "sub": PERSON, "sid": "any"})) == (tenant, PERSON)

    def test_is_of_a_personal_access_token_its_workspace_and_its_owner(self) -> None:
        assert claimed(handle()) == (WORKSPACE, PERSON)

    def test_what_could_not_be_true_is_none(self) -> None:
        assert [token for token in UNTRUE if claimed(token) is not None] == []
