"""How full the streams are, on a real server."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from causeloop_common.contracts import topology
from causeloop_common.messaging import Bus, space
from causeloop_common.telemetry import metrics


def gauge(stream: str) -> float:
    return float(metrics.STREAM_USED.labels(stream)._value.get())


class TestSpace:
    async def test_a_stream_that_fills_up_is_measured_and_an_alarm_once(
        self, bus: Callable[[str], Awaitable[Bus]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """P11: a stream of which more than 70 % is used is an alarm, and the sentence names the command."""
        audit = await bus("audit")
        await audit.jetstream().publish("evt.ws_1.audit.something", b"x" * 10_000)
        (state,) = [
            info.state for info in await audit.jetstream().streams_info() if info.config.name == topology.EVENTS.name
        ]
        watch = space.Space(audit)
        await watch.look()
        assert 0 < gauge("EVENTS") < 0.01
        assert caplog.records == []
        small = replace(topology.EVENTS, max_bytes=state.bytes * 5 // 4)
        monkeypatch.setattr(topology, "STREAMS", (small, topology.DEAD))
        with caplog.at_level(logging.ERROR):
            await watch.look()
            await watch.look()
        assert gauge("EVENTS") == pytest.approx(0.8, abs=0.01)
        [line] = caplog.messages
        assert line.startswith(
            "stream EVENTS: It is 80% full, and refuses everything when it is full: `causeloop events"
        )
