"""Row-level security: the roles, the policies, the commit guard, and the proof that they are what we think.

Every tenant table has ENABLE + FORCE ROW LEVEL SECURITY and policies `tenant_<verb>` that compare `workspace_id`
with the transaction-local setting `app.current_workspace`. Unset means no rows and refused writes. A deferred
constraint trigger, the commit guard, refuses a change whose transaction wrote no event for that tenant.

Each service has an owner, `causeloop_<s>_owner` (NOLOGIN, owns the tables), and login roles, which own nothing and are
members of nothing: its own, `causeloop_<s>`, and those that the policies of its tables name, such as
`causeloop_<s>_relay`. `roles` reads them from the metadata. A migration declares with `protect`, the models with
`protected`; at start `prove` compares the database with the models, exactly, and tries it. A `Visit` is one statement
for several tenants, each under its own row security.

This stops forgotten filters and wrong code, not an attacker who runs their own SQL as the service's role.
"""

from causeloop_common.rls.ddl import (
    GUARD_STATE,
    allow,
    functions_ddl,
    guard_body,
    guard_ddl,
    narrow,
    protect,
    protect_from_service,
)
from causeloop_common.rls.declare import (
    PERSON_SETTING,
    ROLE_SETTINGS,
    STATEMENT_TIMEOUT_SECONDS,
    TENANT_SETTING,
    Policy,
    Protection,
    Tables,
    person,
    protected,
    roles,
    service_has_none,
    tenant,
    tenant_column,
    unaudited,
)
from causeloop_common.rls.forms import changed, note
from causeloop_common.rls.proof import IsolationError, prove
from causeloop_common.rls.visits import Visit, visit_ddl, visited

__all__ = [
    "GUARD_STATE",
    "PERSON_SETTING",
    "ROLE_SETTINGS",
    "STATEMENT_TIMEOUT_SECONDS",
    "TENANT_SETTING",
    "IsolationError",
    "Policy",
    "Protection",
    "Tables",
    "Visit",
    "allow",
    "changed",
    "functions_ddl",
    "guard_body",
    "guard_ddl",
    "narrow",
    "note",
    "person",
    "protect",
    "protect_from_service",
    "protected",
    "prove",
    "roles",
    "service_has_none",
    "tenant",
    "tenant_column",
    "unaudited",
    "visit_ddl",
    "visited",
]
