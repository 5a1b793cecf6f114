"""Settings of audit."""

from pydantic import Field

from causeloop_common.settings import DatabaseAddress, Settings


class AuditSettings(Settings):
    """The common settings, the writer's address, and how often heads are signed."""

    own_writer_url: DatabaseAddress | None = Field(
        default=None,
        alias="DATABASE_URL_AUDIT_WRITER",
        examples=["postgresql://causeloop_audit_writer:…@db.example.com/causeloop?sslmode=verify-full"],
        description="the role that appends to the log",
    )

    checkpoint_seconds: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        alias="CHECKPOINT_SECONDS",
        examples=["10"],
        description="at most so long a log's head stays unsigned, if nobody asks for it sooner",
    )
