"""Routes of the vault: secrets and named keys."""

from causeloop_common.contracts.vault import (
    CreateKey,
    Decrypt,
    Encrypt,
    GetSecret,
    ListKeys,
    ListSecrets,
    PutSecret,
    RevealSecret,
)
from causeloop_gateway.endpoints import Endpoint

ENDPOINTS = (
    Endpoint("GET", "/secrets", ListSecrets),
    Endpoint("POST", "/secrets/{path:path}/reveal", RevealSecret),
    Endpoint("PUT", "/secrets/{path:path}", PutSecret),
    Endpoint("GET", "/secrets/{path:path}", GetSecret),
    Endpoint("POST", "/keys", CreateKey, 201),
    Endpoint("GET", "/keys", ListKeys),
    Endpoint("POST", "/keys/{name}/encrypt", Encrypt),
    Endpoint("POST", "/keys/{name}/decrypt", Decrypt),
)
