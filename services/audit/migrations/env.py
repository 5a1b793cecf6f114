"""Alembic's entry to the schema of audit."""

from alembic import context

from causeloop_audit.models import metadata
from causeloop_common import migrations

migrations.run(context, metadata)
