"""The HTTP interface from Python: typed calls, sync and async, and one follower of a workspace's log.

    with Client("https://causeloop.example.com", token) as client:
        client.send(PutSecret(path="db/password", value="s3cret"))
        for event in client.items(ListEvents(action="vault.")): ...
        for entry in client.follow(): ...

`calls` has a class for each operation and reply, written from the OpenAPI document.
"""

from causeloop_client.client import AsyncClient, Client
from causeloop_client.errors import ClientError, Problem, Unreachable

__all__ = ["AsyncClient", "Client", "ClientError", "Problem", "Unreachable"]
