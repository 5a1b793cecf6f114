"""The operations endpoints of a process."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from causeloop_common.application.service import Application


def _problem(status: int, title: str, detail: str) -> tuple[int, str, bytes]:
    return status, "application/problem+json", orjson.dumps({"title": title, "status": status, "detail": detail})


_ONLY_READ = _problem(405, "Method not allowed", "The address takes GET, HEAD alone.")


class Operations:
    """The operations endpoints of a process, as a raw ASGI app."""

    def __init__(self, applications: Sequence[Application]) -> None:
        self._applications = applications

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        reads = scope["method"] in ("GET", "HEAD")
        status, kind, body = await self._respond(scope["path"]) if reads else _ONLY_READ
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        if not reads:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _respond(self, path: str) -> tuple[int, str, bytes]:
        match path:
            case "/health":
                return 200, "application/json", b'{"status":"ok"}'
            case "/ready":
                checks = await self.readiness()
                ready = all(finding == "ok" for finding in checks.values())
                body = {"status": "ready" if ready else "not_ready", "checks": checks}
                return 200 if ready else 503, "application/json", orjson.dumps(body)
            case "/metrics":
                return 200, CONTENT_TYPE_LATEST, generate_latest()
            case _:
                return _problem(404, "Not found", "There are /health, /ready and /metrics.")

    async def readiness(self) -> dict[str, str]:
        """Every check of every service here, as `service.check`."""
        found = await asyncio.gather(*(application.readiness() for application in self._applications))
        return {
            f"{application.name}.{check}": finding
            for application, checks in zip(self._applications, found, strict=True)
            for check, finding in checks.items()
        }
