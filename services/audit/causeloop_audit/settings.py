"""Settings of audit."""

from pydantic import Field, SecretStr

from causeloop_audit.models import WRITER
from causeloop_common.settings import Settings


class AuditSettings(Settings):
    """The common settings and the writer's address."""

    own_writer_url: SecretStr | None = Field(
        default=None, alias="DATABASE_URL_AUDIT_WRITER", description="the role that appends to the log"
    )

    def writer_dsn(self) -> str:
        """The database address for the writer's role."""
        return self.own_writer_url.get_secret_value() if self.own_writer_url else self.dsn(WRITER)
