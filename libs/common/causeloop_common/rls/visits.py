"""Visits: one statement that does the same for several tenants, one after the other, each under its own row security.

A statement for many tenants needs a role that sees all of them, or one transaction for each. A visit is a function
with its caller's rights that binds the transaction to one tenant after the other, and in the end to its own again. So
each turn sees and writes the rows of one tenant, as in a transaction of that tenant, and nobody has one more right.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from causeloop_common.rls.declare import TENANT_SETTING

_BODY = """
#variable_conflict use_column
DECLARE
    own text := coalesce(current_setting('{setting}', true), '');
    place integer := 0;
    {declares}
BEGIN
    FOREACH {of} IN ARRAY tenants LOOP
        place := place + 1;
        PERFORM set_config('{setting}', {of}::text, true);
        {turn}
    END LOOP;
    PERFORM set_config('{setting}', own, true);
END
"""


@dataclass(frozen=True)
class Visit:
    """The function `name(tenants uuid[], takes)`. `turn` is what it does in each tenant, which is `of_tenant`; `place`
    is the tenant's number, from 1, for arrays that it `takes`. `gives` are the columns of its rows besides `of_tenant`;
    without them it has none. `declares` are variables that outlast a turn.
    """

    name: str
    turn: str
    takes: str = ""
    gives: str = ""
    declares: str = ""

    @property
    def body(self) -> str:
        """The text of the function, which the proof compares."""
        declares = self.declares if self.gives else f"of_tenant uuid; {self.declares}"
        return _BODY.format(setting=TENANT_SETTING, of="of_tenant", declares=declares, turn=self.turn)


def visit_ddl(schema: str, *visits: Visit) -> Iterator[str]:
    """The statements that make these functions, for a migration."""
    for visit in visits:
        takes = f"tenants uuid[], {visit.takes}" if visit.takes else "tenants uuid[]"
        gives = f"TABLE (of_tenant uuid, {visit.gives})" if visit.gives else "void"
        yield (
            f"CREATE FUNCTION {schema}.{visit.name}({takes}) RETURNS {gives} LANGUAGE plpgsql "
            f"SET search_path = pg_catalog AS $visit${visit.body}$visit$"
        )


def visited(*visits: Visit) -> dict[str, dict[str, str]]:
    """`Table.info` of the table that these functions are about, beside its protection."""
    return {"functions": {visit.name: visit.body for visit in visits}}
