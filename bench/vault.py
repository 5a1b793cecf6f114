"""The rows of the vault's data plane: encryption over HTTP, with no database in the way of it."""

import base64
import json
from functools import cache, partial
from typing import Any

import httpx

from bench.openbao import openbao
from bench.rows import CONNECTIONS, bed, http_request
from bench.run import Effort, Row, compare, in_turn

PLAINTEXT = base64.b64encode(b"s" * 64).decode()
ITEMS, MORE_ITEMS = 100, 400


@cache
def _encrypt(effort: Effort) -> dict[str, list[list[dict[str, Any]]]]:
    """All rows in one bed: ours, the reference (of one item), and OpenBao where it is installed."""
    one = json.dumps({"plaintext": PLAINTEXT}).encode()
    many = {"plaintext": PLAINTEXT}
    found: dict[str, list[list[dict[str, Any]]]] = {}
    with bed() as ready, openbao() as peer:
        bearer = {"authorization": f"Bearer {ready.token}"}
        made = {"name": "bench", "type": "aes256-gcm"}
        httpx.post(f"http://127.0.0.1:{ready.port}/v1/keys", json=made, headers=bearer).raise_for_status()

        asked = partial(http_request, "POST", "/v1/keys/bench/encrypt", ready.token)
        turns = [turn([asked(one)] * CONNECTIONS, effort.seconds) for turn in (ready.ours, ready.reference)]
        batches = {
            count: [ready.ours([asked(json.dumps({"items": [many] * count}).encode())] * CONNECTIONS, effort.seconds)]
            for count in (ITEMS, MORE_ITEMS)
        }
        if peer is not None:
            transit = partial(http_request, "POST", "/v1/transit/encrypt/bench", peer.token)
            turns.append(peer.turn([transit(one)] * CONNECTIONS, effort.seconds))
            for count, sides in batches.items():
                body = json.dumps({"batch_input": [many] * count}).encode()
                sides.append(peer.turn([transit(body)] * CONNECTIONS, effort.seconds))
        found["one"] = in_turn(turns, effort.rounds)
        for count, sides in batches.items():
            found[str(count)] = in_turn(sides, effort.rounds)
    return found


def vault_encrypt_one(effort: Effort) -> Row:
    """One item of 64 bytes: HTTP, token, bus, HKDF, AES-GCM, and back."""
    ours, reference, *peer = _encrypt(effort)["one"]
    return compare(ours, reference, *peer, bar=0.75, peer_bar=1.3)


def vault_encrypt_batch(effort: Effort) -> Row:
    """Batches of 100 items of 64 bytes, in items per second."""
    return _batch(effort, ITEMS, 3.5)


def vault_encrypt_batch_400(effort: Effort) -> Row:
    """Batches of 400 items of 64 bytes, in items per second."""
    return _batch(effort, MORE_ITEMS, 4.5)


def _batch(effort: Effort, items: int, peer_bar: float) -> Row:
    """Rates of items; an act, whose CPU time is measured, is a whole batch."""
    ours, *peer = _encrypt(effort)[str(items)]
    row = compare(ours, None, *peer, peer_bar=peer_bar)
    row.ours *= items
    row.peer = row.peer and row.peer * items
    return row


ROWS = {
    "vault_encrypt_one": vault_encrypt_one,
    "vault_encrypt_batch": vault_encrypt_batch,
    "vault_encrypt_batch_400": vault_encrypt_batch_400,
}
