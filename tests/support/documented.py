"""Every answer that a test gets from a gateway is one that the API's description has."""

import re
from typing import Any

import httpx

from causeloop_gateway.documents import openapi

_PATHS = {
    re.compile(re.sub(r"\\{path\\}", ".+", re.sub(r"\\{(id|name)\\}", "[^/]+", re.escape(path)))): operations
    for path, operations in sorted(openapi.document()["paths"].items(), key=lambda item: -len(item[0]))
}


async def check_documented(response: httpx.Response) -> None:
    """Fail for a status or a code that the operation's description does not have; for httpx's hooks."""
    request = response.request
    operations: dict[str, Any] = next((found for path, found in _PATHS.items() if path.fullmatch(request.url.path)), {})
    operation = operations.get(request.method.lower())
    if operation is None:
        return
    described = operation["responses"].get(str(response.status_code))
    where = f"{operation['operationId']}: {response.status_code}"
    assert described is not None, f"{where} is not described."
    if "$ref" in described:
        described = openapi.document()["components"]["responses"][described["$ref"].rpartition("/")[2]]
    kind = response.headers.get("content-type", "").partition(";")[0]
    assert kind in described.get("content", {"": None}), f"{where}: {kind!r} is not described."
    if kind == "application/problem+json":
        await response.aread()
        code = response.json()["code"]
        codes = {example["value"]["code"] for example in described["content"][kind]["examples"].values()}
        assert code in codes, f"{where}: the code {code} is not described."
