"""The tables of the probe: a service with everything a transaction can carry, and traps that go off at COMMIT."""

from alembic import op

from causeloop_common import idempotency, inbox, leases, outbox, rls, schedules

revision = "0001"
down_revision = None

OWN_THINGS = rls.Policy(
    "thing_self_select",
    "select",
    "causeloop_probe",
    using=f"((owner = {rls.person('probe')}) AND ({rls.tenant('probe')} IS NULL))",
)


def upgrade() -> None:
    statements = [
        *rls.functions_ddl("probe"),
        *outbox.ddl("probe"),
        *outbox.add("probe", "on_behalf_of"),
        *outbox.receipts_ddl("probe"),
        *outbox.salt_ddl("probe"),
        "ALTER TABLE probe.outbox DROP CONSTRAINT can_be_announced",  # the probe announces events of other services
        rls.guard_ddl("probe"),
        *idempotency.ddl("probe"),
        *inbox.ddl("probe"),
        *idempotency.expiry_ddl("probe"),
        *schedules.ddl("probe"),
        *leases.ddl(
            "probe",
            {"relay": "causeloop_probe_relay", "schedule": "causeloop_probe_jobs", "other": "causeloop_probe"},
        ),
        """
        CREATE TABLE probe.things (
            workspace_id uuid NOT NULL DEFAULT probe.app_current_tenant(),
            name text NOT NULL,
            owner uuid,
            PRIMARY KEY (workspace_id, name)
        )
        """,
        *rls.protect("probe", "things", extra=(OWN_THINGS,)),
        """
        CREATE TABLE probe.traps (
            workspace_id uuid NOT NULL DEFAULT probe.app_current_tenant(),
            kind text NOT NULL
        )
        """,
        *rls.protect("probe", "traps", "select", "insert", audited=False, reason="goes off at COMMIT"),
        """
        CREATE FUNCTION probe.go_off() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.kind = 'cut' THEN
                PERFORM pg_terminate_backend(pg_backend_pid());
                PERFORM pg_sleep(10);
            END IF;
            RAISE EXCEPTION 'a trap' USING ERRCODE = NEW.kind;
        END
        $$
        """,
        """
        CREATE CONSTRAINT TRIGGER go_off AFTER INSERT ON probe.traps DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION probe.go_off()
        """,
    ]
    for statement in statements:
        op.execute(statement)
