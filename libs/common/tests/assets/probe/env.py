"""Alembic's entry to the schema of the probe."""

from alembic import context
from sqlalchemy import MetaData

from causeloop_common import migrations

migrations.run(context, MetaData(schema="probe"))
