"""Routes of the vault: secrets."""

from causeloop_common.contracts.vault import GetSecret, ListSecrets, PutSecret, RevealSecret
from causeloop_gateway.commands import Endpoint

ENDPOINTS = (
    Endpoint("GET", "/secrets", ListSecrets),
    Endpoint("POST", "/secrets/{path:path}/reveal", RevealSecret),
    Endpoint("PUT", "/secrets/{path:path}", PutSecret),
    Endpoint("GET", "/secrets/{path:path}", GetSecret),
)
