"""Notes, checkpoints and proof files: the published examples, the round trip, and every byte bent once."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from causeloop_log.tlog import NotVerified, merkle, note
from causeloop_log.tlog.checkpoint import LARGEST_SIZE, Checkpoint, Origin, origin_of, read_origin
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import LogProof

PRIVATE = Ed25519PrivateKey.from_private_bytes(
    bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
)
"""The first key of RFC 8032 7.1."""
ORIGIN = "causeloop.example/log/ws_01h455vb4pex5vsknk084sn02r"
KEY = VerifierKey(ORIGIN, PRIVATE.public_key().public_bytes_raw())
HEAD = Checkpoint(ORIGIN, 3, merkle.leaf_hash(b"root"))
LEAVES = [b"zero", b"one", b"two"]


def log_proof(index: int = 1) -> LogProof:
    hashes = [merkle.leaf_hash(leaf) for leaf in LEAVES]
    left = merkle.node_hash(hashes[0], hashes[1])
    paths = [[hashes[1], hashes[2]], [hashes[0], hashes[2]], [left]]
    signed = Checkpoint(ORIGIN, 3, merkle.node_hash(left, hashes[2])).sign(PRIVATE)
    return LogProof(index, paths[index], signed, LEAVES[index])


def verify_file(text: str) -> None:
    proof = LogProof.parse(text)
    proof.verified(KEY, merkle.leaf_hash(proof.leaf or b""))


class TestVerifierKey:
    def test_the_published_example_of_the_format(self) -> None:
        """The key and the note of the Go module database's documentation (golang.org/x/mod/sumdb/note)."""
        key = VerifierKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
        text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
        signature = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
        signed = f"{text}\n— PeterNeumann {signature}\n"
        assert note.verified(signed, key) == text
        assert str(key) == "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"

    def test_is_read_as_it_is_written(self) -> None:
        assert VerifierKey.parse(str(KEY)) == KEY
        assert VerifierKey.parse(f"{KEY}\n") == KEY

    @pytest.mark.parametrize(
        ("bent", "why"),
        [
            (str(KEY).replace("causeloop", "other", 1), "id does not belong"),
            (str(KEY).replace("+", "+0", 1), "id does not belong"),
            (str(VerifierKey(ORIGIN, b"x" * 32)).rpartition("+")[0] + str(KEY)[-45:], "id does not belong"),
            (ORIGIN, "form"),
            (f"{ORIGIN}+00000000+AgAA", "form"),
            ("", "form"),
            (f"{KEY}=", "base64"),
        ],
    )
    def test_refuses_any_other_text(self, bent: str, why: str) -> None:
        with pytest.raises(NotVerified, match=why):
            VerifierKey.parse(bent)

    @pytest.mark.parametrize("sign", [0, 1 << 255], ids=["positive", "negative"])
    @pytest.mark.parametrize(
        "y",
        [
            *(note._SMALL_ORDER),
            note._PRIME,  # 0 in another spelling
            note._PRIME + 1,
            note._PRIME + 18,
        ],
    )
    def test_of_small_order_or_in_another_spelling_is_refused(self, y: int, sign: int) -> None:
        """P8: under such a key a signature that nobody made holds for any text."""
        with pytest.raises(NotVerified, match="signatures of anybody hold"):
            VerifierKey(ORIGIN, (y | sign).to_bytes(32, "little"))

    def test_the_points_of_small_order_are_those_of_the_curve(self) -> None:
        """Eight times each of them is the neutral element (RFC 8032 5.1.4)."""
        prime = note._PRIME
        d = -121665 * pow(121666, -1, prime) % prime
        for y in note._SMALL_ORDER:
            square = (y * y - 1) * pow(d * y * y + 1, -1, prime) % prime
            x = pow(square, (prime + 3) // 8, prime)
            if (x * x - square) % prime:
                x = x * pow(2, (prime - 1) // 4, prime) % prime
            assert (x * x - square) % prime == 0
            point = (x, y)
            for _ in range(3):
                (a, b), m = point, d * point[0] ** 2 * point[1] ** 2
                point = (2 * a * b * pow(1 + m, -1, prime) % prime, (b * b + a * a) * pow(1 - m, -1, prime) % prime)
            assert point == (0, 1)


class TestNote:
    def test_of_another_key_is_refused(self) -> None:
        other = Ed25519PrivateKey.generate()
        with pytest.raises(NotVerified, match="not signed by the key"):
            note.verified(note.sign("text\n", ORIGIN, other), KEY)

    def test_with_more_signatures_is_verified_by_the_one_that_is_known(self) -> None:
        witness = note.sign("text\n", "witness.example/w1", Ed25519PrivateKey.generate()).rpartition("\n\n")[2]
        assert note.verified(note.sign("text\n", ORIGIN, PRIVATE) + witness, KEY) == "text\n"

    def test_with_one_bad_signature_of_the_known_key_is_refused_whole(self) -> None:
        good = note.sign("text\n", ORIGIN, PRIVATE)
        bad = note.sign("other\n", ORIGIN, PRIVATE).rpartition("\n\n")[2]
        with pytest.raises(NotVerified, match="does not fit"):
            note.verified(good + bad, KEY)

    def test_text_may_have_empty_lines(self) -> None:
        assert note.verified(note.sign("a\n\nb\n", ORIGIN, PRIVATE), KEY) == "a\n\nb\n"

    @pytest.mark.parametrize(
        ("bent", "why"),
        [
            ("", "no signatures"),
            ("text\n", "no signatures"),
            ("text\n\n— name AAAAAAAA", "no signatures"),
            ("text\n\n", "no signature"),
            ("text\n\n- name AAAAAAAA\n", "base64|that is no signature"),
            ("text\n\n— name AAAA\n", "base64|that is no signature"),
            ("text\n\n— na+me AAAAAAAA\n", "that is no signature"),
            ("te\x00xt\n\n— name AAAAAAAA\n", "control characters"),
            ("te\rxt\n\n— name AAAAAAAA\n", "control characters"),
            ("x" * 270_000, "larger than 262144 bytes"),
            ("text\n\n— wit\ud800ness AAAAAAAA\n", "not UTF-8"),
        ],
    )
    def test_of_another_form_is_refused(self, bent: str, why: str) -> None:
        with pytest.raises(NotVerified, match=why):
            note.verified(bent, KEY)

    def test_with_sixteen_large_signatures_of_witnesses_is_verified(self) -> None:
        """P8: post-quantum signatures have some 4.6 KB."""
        raw = base64.b64encode(bytes(4_600)).decode()
        witnesses = "".join(f"— witness.example/w{number} {raw}\n" for number in range(16))
        assert note.verified(note.sign("text\n", ORIGIN, PRIVATE) + witnesses, KEY) == "text\n"

    @pytest.mark.parametrize("text", ["no newline", ""])
    def test_is_made_of_lines(self, text: str) -> None:
        with pytest.raises(ValueError, match="ends with a newline"):
            note.sign(text, ORIGIN, PRIVATE)


class TestCheckpoint:
    def test_is_what_was_signed(self) -> None:
        assert Checkpoint.verified(HEAD.sign(PRIVATE), KEY) == HEAD

    def test_flipping_any_byte_is_refused(self) -> None:
        signed = HEAD.sign(PRIVATE).encode()
        for at in range(len(signed)):
            bent = (signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :]).decode(errors="replace")
            with pytest.raises(NotVerified):
                Checkpoint.verified(bent, KEY)

    def test_of_another_tenant_is_refused_though_the_same_key_signed_it(self) -> None:
        other = origin_of("causeloop.example", "ws_01h455vb4pex5vsknk084sn02s")
        with pytest.raises(NotVerified, match="not signed by the key"):
            Checkpoint.verified(Checkpoint(other, 3, HEAD.root).sign(PRIVATE), KEY)
        foreign = note.sign(f"{other}\n3\n{base64.b64encode(HEAD.root).decode()}\n", ORIGIN, PRIVATE)
        with pytest.raises(NotVerified, match=f"of the log {other}, not of {ORIGIN}"):
            Checkpoint.verified(foreign, KEY)

    @pytest.mark.parametrize(
        "text",
        [
            f"{ORIGIN}\n3\n",
            f"{ORIGIN}\n03\n{base64.b64encode(bytes(32)).decode()}\n",
            f"{ORIGIN}\n-3\n{base64.b64encode(bytes(32)).decode()}\n",
            f"{ORIGIN}\n3 \n{base64.b64encode(bytes(32)).decode()}\n",
            f"{ORIGIN}\n3\n{base64.b64encode(bytes(31)).decode()}\n",
            f"{ORIGIN}\n{LARGEST_SIZE + 1}\n{base64.b64encode(bytes(32)).decode()}\n",
            f"\n{ORIGIN}\n3\n{base64.b64encode(bytes(32)).decode()}\n",
            f"{ORIGIN}\n3\n{base64.b64encode(bytes(32)).decode()[:-1]}\n",
        ],
    )
    def test_signed_text_of_another_form_is_no_checkpoint(self, text: str) -> None:
        with pytest.raises(NotVerified, match=r"not a checkpoint|out of bounds|base64"):
            Checkpoint.verified(note.sign(text, ORIGIN, PRIVATE), KEY)


class TestLogProof:
    def test_is_read_as_it_is_written_and_verifies(self) -> None:
        for index, leaf in enumerate(LEAVES):
            proof = LogProof.parse(str(log_proof(index)))
            assert proof == log_proof(index)
            assert proof.verified(KEY, merkle.leaf_hash(leaf)).size == 3

    def test_has_the_published_form(self) -> None:
        lines = str(log_proof()).split("\n")
        assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra b25l", "index 1"]
        assert [len(base64.b64decode(line)) for line in lines[3:5]] == [32, 32]
        assert lines[5:8] == ["", ORIGIN, "3"]

    def test_a_log_of_one_entry_has_an_empty_path(self) -> None:
        signed = Checkpoint(ORIGIN, 1, merkle.leaf_hash(b"one")).sign(PRIVATE)
        proof = LogProof.parse(str(LogProof(0, [], signed)))
        assert proof.leaf is None
        assert proof.verified(KEY, merkle.leaf_hash(b"one")).size == 1

    def test_flipping_any_byte_is_refused(self) -> None:
        whole = str(log_proof()).encode()
        for at in range(len(whole)):
            bent = (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]).decode(errors="replace")
            with pytest.raises(NotVerified):
                verify_file(bent)

    @pytest.mark.parametrize(
        ("old", "new", "why"),
        [
            ("@v1", "@v2", "not of the form"),
            ("index 1", "index 01", "no line with the entry's index"),
            ("index 1\n", "", "no line with the entry's index"),
            ("\n\n", "\n", "not of the form|SHA-256|base64"),
            ("index 1\n", "index 1\nAAAA\n", "no SHA-256 hash"),
            ("index 1\n", "index 1\n" + ("A" * 43 + "=\n") * 65, "too many lines"),
            ("index 1\n", "index 1\n" + "x" * 600_000, "larger than"),
            ("extra b25l\nindex 1\n", "", "no line with the entry's index"),
        ],
        ids=range(8),
    )
    def test_of_another_form_is_refused(self, old: str, new: str, why: str) -> None:
        with pytest.raises(NotVerified, match=why):
            LogProof.parse(str(log_proof()).replace(old, new, 1))


class TestOrigin:
    @pytest.mark.parametrize("installation", ["causeloop.example", "a.example:8443/b/7"])
    @pytest.mark.parametrize("epoch", [1, 2, 10, 999_999_999])
    def test_is_read_as_it_was_made(self, installation: str, epoch: int) -> None:
        """P6: the name of a log changes with its epoch; the first one is not named."""
        tenant = "ws_01h455vb4pex5vsknk084sn02s"
        origin = origin_of(installation, tenant, epoch)
        assert origin.endswith(tenant) == (epoch == 1)
        assert read_origin(origin) == Origin(f"{installation}/log", tenant, epoch)

    @pytest.mark.parametrize("origin", ["7", "a/0", "a/01", "a/1", "", "a/b/"])
    def test_has_one_form(self, origin: str) -> None:
        assert read_origin(origin).epoch == 1
