"""The version and the limits that the NATS server must have."""

from nats.aio.client import Client

from causeloop_common.contracts import topology


def unfit(client: Client) -> str | None:
    """A sentence that names what the connected server lacks and how it is set; None if it lacks nothing."""
    version = client.connected_server_version
    if (version.major, version.minor) < topology.SERVER_VERSION:
        least = ".".join(map(str, topology.SERVER_VERSION))
        return f"NATS_URL leads to a server of version {version.major}.{version.minor}. Use version {least} or later."
    if client.max_payload < topology.MAX_PAYLOAD_BYTES:
        return (
            f"NATS_URL leads to a server that permits messages of {client.max_payload} bytes. Set `max_payload: "
            f"{topology.MAX_PAYLOAD_BYTES}` in its configuration: `causeloop keys --nats config` prints it."
        )
    return None
