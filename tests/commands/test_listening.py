"""`causeloop serve` at an address at which it cannot listen."""

import pytest

from tests.support.commands import causeloop

NOWHERE = {"NATS_URL": "nats://127.0.0.1:9", "JWT_SECRET": "a-secret-of-at-least-thirty-two-characters"}


class TestServe:
    @pytest.mark.parametrize("host", ["192.0.2.1", "127.0.0.1:1"])
    async def test_ends_with_a_sentence(self, host: str) -> None:
        """F11: it served without its operations, or stood still and obeyed no signal."""
        done = await causeloop("serve", "gateway", **NOWHERE, CAUSELOOP_OPS_HOST=host)
        named = f"CAUSELOOP_OPS_PORT or CAUSELOOP_OPS_HOST names {host}, port 0, where nothing can listen here"
        assert done.refusal().startswith(f"causeloop serve: {named}")
