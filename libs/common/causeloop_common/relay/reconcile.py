"""`causeloop events reconcile`: have a service's relay send its events since a time again.

The time is that of the act. The relay knows these rows by their marks: nobody has lost them.
"""

from datetime import datetime

import asyncpg

from causeloop_common.database import role_connections
from causeloop_common.leader import FAULTS
from causeloop_common.relay import parts
from causeloop_common.settings import SettingsError


async def reconcile(dsn: str, schema: str, since: datetime) -> str:
    """Take back the confirmations of a service's acts since a time, as its relay's role; how many, as a sentence."""
    connections = role_connections(dsn, f"causeloop_{schema}_relay")
    statement = parts.take_back(schema, parts.BY_ACT, marks=parts.ASKED, waiting=parts.WAITING)
    place, rows, waiting = parts.BEGINNING, 0, 0
    try:
        async with connections.borrowed() as connection:
            while part := await connection.fetchrow(statement, since, *place):
                place = (part["bucket"], part["seq"])
                rows, waiting = rows + part["rows"], waiting + part["waiting"]
    except asyncpg.QueryCanceledError as error:
        raise SettingsError(
            f"The database of {schema} did not answer in time, after {rows} events were taken back. Run it again."
        ) from error
    except SettingsError:
        raise
    except FAULTS as error:
        raise SettingsError(f"The database does not let the relay of {schema} in: {type(error).__name__}.") from error
    finally:
        await connections.close(1)
    return f"{rows} events will be sent again, {waiting} wait already."
