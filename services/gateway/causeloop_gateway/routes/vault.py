"""Routes of the vault: secrets and named keys."""

from causeloop_common.contracts import vault
from causeloop_common.errors import Conflict, NotFound
from causeloop_gateway.endpoints import RECORDED, Endpoint

_NO_SECRET = NotFound("There is no secret 'db/password' in this workspace, or not that version of it.")
_NO_KEY = NotFound("There is no key 'orders' in this workspace.")
ENDPOINTS = (
    Endpoint(
        "PUT", "/secrets/{path:path}", vault.PutSecret,
        errors=(RECORDED, Conflict("The secret's version is not the one you named. Read it again and decide.")),
    ),
    Endpoint("GET", "/secrets", vault.ListSecrets),
    Endpoint("GET", "/secrets/{path:path}", vault.GetSecret, errors=(_NO_SECRET,)),
    Endpoint("POST", "/secrets/{path:path}/reveal", vault.RevealSecret, errors=(RECORDED, _NO_SECRET)),
    Endpoint(
        "POST", "/keys", vault.CreateKey, 201,
        errors=(RECORDED, Conflict("There is a key 'orders' in this workspace already. Use it, or another name.")),
    ),
    Endpoint("GET", "/keys", vault.ListKeys),
    Endpoint("GET", "/keyring", vault.GetKeyring),
    Endpoint(
        "POST", "/keyring/rotate", vault.RotateKeyring, 202,
        errors=(RECORDED, Conflict("Another rotation was faster. Look at its job.")),
    ),
    Endpoint("POST", "/keys/{name}/encrypt", vault.Encrypt, unread=True, errors=(_NO_KEY,)),
    Endpoint("POST", "/keys/{name}/decrypt", vault.Decrypt, unread=True, errors=(RECORDED, _NO_KEY)),
)  # fmt: skip
