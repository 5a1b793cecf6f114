"""Who asks: the context of a use case, and the service tokens that carry it between services."""

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import jwt
import pytest

from causeloop_common import context, ids
from causeloop_common.context import Assurance, AuthContext, Idempotency, ServiceTokens
from causeloop_common.contracts import topology
from causeloop_common.errors import ClocksApart, Forbidden, MfaRequired, Unauthorized
from causeloop_common.keys import KeyRing
from causeloop_common.permissions import ROLES

SECRET = b"a secret of the installation, long enough"
SOMEBODY = ids.realm("issuer", "somebody")
REFUSED = "The service token is not valid for this service"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> Callable[[str], ServiceTokens]:
    return lambda service: ServiceTokens(KeyRing.derive(SECRET, service, topology.pairs()), clock)


def pair(issuer: str, audience: str) -> bytes:
    return KeyRing.derive(SECRET, issuer, topology.pairs()).pair(issuer, audience)


def forge(
    key: bytes | None = None,
    *,
    alg: str = "HS256",
    headers: dict[str, Any] | None = None,
    life: tuple[int, int] = (0, 60),
    **claims: Any,
) -> str:
    """A token of the gateway for the vault, but for what the test changes; a claim that is None is left out."""
    now = int(time.time())
    honest = {
        "iss": "gateway",
        "aud": "vault",
        "sub": SOMEBODY,
        "ten": ids.INSTALLATION,
        "per": ["secrets:read"],
        "iat": now + life[0],
        "exp": now + life[1],
    }
    body = {name: value for name, value in {**honest, **claims}.items() if value is not None}
    signing: Any = None if alg == "none" else key or pair("gateway", "vault")
    return jwt.encode(body, signing, algorithm=alg, headers={"typ": "svc+jwt", "kid": "gateway", **(headers or {})})


class TestAuthContext:
    def test_a_missing_permission_is_named(self, workspace: AuthContext) -> None:
        with pytest.raises(Forbidden, match=r"needs the permission 'internal:seal'\. Ask an administrator"):
            workspace.require("internal:seal")

        workspace.require("secrets:read")

    def test_its_tenant_is_what_the_database_compares(self, workspace: AuthContext) -> None:
        assert workspace.tenant_uuid == ids.decode(workspace.tenant, "ws")

    def test_in_another_tenant_it_holds_exactly_what_it_is_given(self, workspace: AuthContext) -> None:
        keyed = replace(workspace, idempotency=Idempotency("key", "print"))

        moved = keyed.of_tenant(ids.INSTALLATION, "internal:resolve")

        assert (moved.tenant, moved.permissions) == (ids.INSTALLATION, frozenset({"internal:resolve"}))
        assert (moved.principal, moved.credential) == (workspace.principal, workspace.credential)
        assert moved.idempotency is None  # the key was for the request in the other tenant

    def test_a_service_that_asks_by_itself_takes_nothing_of_the_caller_s_sign_in(self, workspace: AuthContext) -> None:
        signed_in = replace(workspace, assurance=Assurance.MULTI, authenticated_at=1, on_behalf_of=SOMEBODY)

        own = signed_in.of_service("audit", "internal:seal")

        assert own == AuthContext(
            tenant=workspace.tenant,
            principal="svc_audit",
            permissions=frozenset({"internal:seal"}),
            issuer="audit",
            request_id=workspace.request_id,
        )

    @pytest.mark.parametrize(
        ("principal", "kind"),
        [(SOMEBODY, "person"), (ids.new("sva"), "service_account"), ("svc_gateway", "service")],
        ids=["person", "service account", "service"],
    )
    def test_its_principal_has_a_kind(self, workspace: AuthContext, principal: str, kind: str) -> None:
        assert replace(workspace, principal=principal).kind == kind


class TestStepUp:
    @pytest.mark.parametrize(
        ("assurance", "age"),
        [(Assurance.SINGLE, 0), (Assurance.SINGLE, 600), (Assurance.MULTI, 600), (Assurance.SINGLE, -5)],
    )
    def test_a_recent_sign_in_is_enough(self, workspace: AuthContext, assurance: Assurance, age: int) -> None:
        replace(workspace, assurance=assurance, authenticated_at=10_000 - age).require_step_up(10_000)

    @pytest.mark.parametrize(
        ("assurance", "since"),
        [
            (Assurance.NONE, 10_000),
            (Assurance.SINGLE, None),
            (Assurance.SINGLE, 9_399),
            (Assurance.MULTI, 9_399),
            (Assurance.SINGLE, 10_006),
        ],
    )
    def test_none_an_old_and_a_future_one_are_not(
        self, workspace: AuthContext, assurance: Assurance, since: int | None
    ) -> None:
        ctx = replace(workspace, assurance=assurance, authenticated_at=since)
        with pytest.raises(MfaRequired, match=r"^This needs a sign-in of the last 10 minutes\. Sign in again"):
            ctx.require_step_up(10_000)


OF_A_REQUEST: dict[str, Any] = {"request_id": "", "idempotency": None}
"""What of a context is not in the token, and so not read from it."""


class TestMint:
    def test_the_audience_reads_what_the_issuer_signed(
        self, tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        caller = tokens("vault").verify(tokens("gateway").mint(workspace, "vault"))

        assert caller == replace(workspace, issuer="gateway", **OF_A_REQUEST)

    def test_the_issuer_is_who_signs_whatever_the_context_says(
        self, tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        assert workspace.issuer == "gateway"
        assert tokens("vault").verify(tokens("auth").mint(workspace, "vault")).issuer == "auth"

    def test_a_caller_without_credential_acts_for_itself(self, tokens: Callable[[str], ServiceTokens]) -> None:
        ctx = AuthContext(
            tenant=ids.INSTALLATION, principal="svc_gateway", permissions=frozenset({"internal:authenticate"})
        )

        token = tokens("gateway").mint(ctx, "auth")

        assert "crd" not in jwt.decode(token, options={"verify_signature": False})
        assert tokens("auth").verify(token).credential is None

    def test_lives_for_a_minute(
        self, tokens: Callable[[str], ServiceTokens], workspace: AuthContext, clock: Clock
    ) -> None:
        found = jwt.decode(tokens("gateway").mint(workspace, "vault"), options={"verify_signature": False})

        assert (found["iat"], found["exp"]) == (int(clock.now), int(clock.now) + 60)

    def test_is_reused_to_half_its_life(
        self, tokens: Callable[[str], ServiceTokens], workspace: AuthContext, clock: Clock
    ) -> None:
        gateway = tokens("gateway")
        first = gateway.mint(workspace, "vault")

        clock.now += 29.9
        assert gateway.mint(workspace, "vault") is first
        clock.now += 0.2
        assert gateway.mint(workspace, "vault") != first

    def test_is_the_same_for_its_half_minute_though_it_is_kept_no_more(
        self, tokens: Callable[[str], ServiceTokens], workspace: AuthContext, clock: Clock
    ) -> None:
        """The verifier remembers it: another token for each request would cost it a check for each."""
        gateway = tokens("gateway")
        first = gateway.mint(workspace, "vault")
        gateway._minted.clear()
        clock.now += 29
        assert gateway.mint(workspace, "vault") == first
        gateway._minted.clear()
        clock.now += 2
        assert gateway.mint(workspace, "vault") != first

    def test_of_a_clock_that_was_set_back_is_not_reused(
        self, tokens: Callable[[str], ServiceTokens], workspace: AuthContext, clock: Clock
    ) -> None:
        gateway = tokens("gateway")
        gateway.mint(workspace, "vault")
        clock.now -= 10
        found = jwt.decode(gateway.mint(workspace, "vault"), options={"verify_signature": False})
        assert found["iat"] == int(clock.now)

    def test_is_what_a_library_makes_of_the_same_claims(
        self, tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        token = tokens("gateway").mint(workspace, "vault")
        claims = jwt.decode(token, pair("gateway", "vault"), algorithms=["HS256"], audience="vault")
        header = jwt.get_unverified_header(token)
        assert header == {"alg": "HS256", "kid": "gateway", "typ": "svc+jwt"}
        assert jwt.api_jws.PyJWS().decode_complete(token, pair("gateway", "vault"), ["HS256"])["header"] == header
        assert claims["per"] == sorted(workspace.permissions)

    def test_is_never_reused_for_another_caller_tenant_right_or_audience(
        self, tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        gateway = tokens("gateway")
        others: dict[str, Any] = {
            "tenant": ids.new("ws"),
            "principal": SOMEBODY,
            "permissions": frozenset(),
            "credential": "ses_other",
            "assurance": Assurance.MULTI,
            "authenticated_at": 1_700_000_000,
            "on_behalf_of": ids.new("sva"),
        }
        made = {
            gateway.mint(workspace, "vault"),
            gateway.mint(workspace, "audit"),
            gateway.mint(replace(workspace, credential=None), "vault"),
            *(gateway.mint(replace(workspace, **{name: other}), "vault") for name, other in others.items()),
        }

        assert len(made) == 10
        # A field that is added later belongs to a request, to the issuer's signature, or here.
        assert {*others} == {*context.CLAIMS}
        assert {field.name for field in fields(AuthContext)} == {*others, *OF_A_REQUEST, "issuer"}
        shown = replace(workspace, **others)
        assert tokens("vault").verify(gateway.mint(shown, "vault")) == replace(shown, issuer="gateway", **OF_A_REQUEST)

    def test_a_service_cannot_speak_for_a_pair_it_does_not_belong_to(
        self, tokens: Callable[[str], ServiceTokens], workspace: AuthContext
    ) -> None:
        with pytest.raises(KeyError):
            tokens("audit").mint(workspace, "auth")


class TestVerify:
    def test_the_honest_token_of_these_tests_is_good(self, tokens: Callable[[str], ServiceTokens]) -> None:
        assert tokens("vault").verify(forge()).principal == SOMEBODY

    @pytest.mark.parametrize("token", ["", "a.b.c", "é", "clp_pat_x", "eyJhbGciOiJub25lIn0.e30."])
    def test_what_is_no_token_is_refused(self, tokens: Callable[[str], ServiceTokens], token: str) -> None:
        with pytest.raises(Unauthorized, match=REFUSED):
            tokens("vault").verify(token)

    @pytest.mark.parametrize(
        "changed",
        [
            pytest.param({"key": b"k" * 32}, id="forged with another key"),
            pytest.param({"key": pair("gateway", "auth")}, id="the key of the issuer with somebody else"),
            pytest.param({"key": pair("auth", "vault")}, id="the key of another issuer"),
            pytest.param({"alg": "none"}, id="alg none"),
            pytest.param({"alg": "HS512", "key": b"k" * 64}, id="another algorithm"),
            pytest.param({"headers": {"typ": "at+jwt"}}, id="an access token's type"),
            pytest.param({"headers": {"typ": "JWT"}}, id="no type of ours"),
            pytest.param({"headers": {"kid": "nobody"}}, id="an unknown issuer"),
            pytest.param({"headers": {"kid": "auth"}}, id="another issuer's name"),
            pytest.param({"headers": {"kid": ""}}, id="no issuer"),
            pytest.param(
                {"key": pair("auth", "vault"), "headers": {"kid": "auth"}}, id="signed by one, named by another"
            ),
            pytest.param({"aud": "auth"}, id="for another audience"),
            pytest.param({"aud": None}, id="for nobody"),
            pytest.param({"iss": None}, id="without issuer"),
            pytest.param({"sub": None}, id="without principal"),
            pytest.param({"ten": None}, id="without tenant"),
            pytest.param({"per": None}, id="without permissions"),
            pytest.param({"exp": None}, id="without end"),
            pytest.param({"iat": None}, id="without beginning"),
            pytest.param({"life": (-120, -6)}, id="expired"),
            pytest.param({"ten": "ws_x"}, id="a tenant that is none"),
            pytest.param({"ten": ids.INSTALLATION.replace("usr_", "ws_")}, id="a realm called a workspace"),
            pytest.param({"ten": 7}, id="a tenant that is no text"),
            pytest.param({"ten": []}, id="a tenant that is a list"),
            pytest.param({"per": 7}, id="permissions that are no list"),
            pytest.param({"sub": "somebody"}, id="a principal that is none"),
            pytest.param({"sub": "usr_somebody"}, id="a person that is none"),
            pytest.param({"sub": "svc_Gateway"}, id="a service that is none"),
            pytest.param({"sub": 7}, id="a principal that is no text"),
            pytest.param({"crd": {"sub": "ses_1"}}, id="a credential of another shape"),
            pytest.param({"acr": 3}, id="an assurance that there is not"),
            pytest.param({"acr": "mfa"}, id="an assurance that is no number"),
            pytest.param({"auth_time": "now"}, id="a time that is no number"),
            pytest.param({"auth_time": True}, id="a time that is a truth"),
            pytest.param({"obo": "somebody"}, id="on behalf of nobody"),
            pytest.param({"obo": ["usr_x"]}, id="on behalf of a list"),
        ],
    )
    def test_a_token_that_differs_from_the_honest_one_is_refused(
        self, tokens: Callable[[str], ServiceTokens], changed: dict[str, Any]
    ) -> None:
        with pytest.raises(Unauthorized, match=REFUSED):
            tokens("vault").verify(forge(**changed))

    def test_a_token_of_the_future_shows_that_clocks_are_apart(self, tokens: Callable[[str], ServiceTokens]) -> None:
        with pytest.raises(ClocksApart, match="of a time that is still to come here"):
            tokens("vault").verify(forge(life=(60, 120)))

    def test_clocks_may_differ_by_five_seconds(self, tokens: Callable[[str], ServiceTokens]) -> None:
        assert tokens("vault").verify(forge(life=(-64, -3))).principal == SOMEBODY
        assert tokens("vault").verify(forge(life=(3, 63))).principal == SOMEBODY

    def test_a_changed_signature_is_refused_though_the_rest_is_remembered(
        self, tokens: Callable[[str], ServiceTokens]
    ) -> None:
        vault, token = tokens("vault"), forge()
        vault.verify(token)

        changed = token[:-5] + ("A" if token[-5] != "A" else "B") + token[-4:]
        with pytest.raises(Unauthorized, match=REFUSED):
            vault.verify(changed)

    def test_is_done_once_and_remembered_until_the_token_ends(
        self, tokens: Callable[[str], ServiceTokens], clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vault, token, decoded = tokens("vault"), forge(), []

        def counting(*args: Any, **more: Any) -> Any:
            decoded.append(args)
            return decode(*args, **more)

        decode = jwt.decode
        monkeypatch.setattr(jwt, "decode", counting)
        first = vault.verify(token)
        clock.now += 58
        assert vault.verify(token) is first
        assert len(decoded) == 1
        clock.now += 3
        vault.verify(token)
        assert len(decoded) == 2

    def test_a_refusal_is_not_remembered(self, tokens: Callable[[str], ServiceTokens]) -> None:
        vault = tokens("vault")
        with pytest.raises(Unauthorized, match=REFUSED):
            vault.verify(forge(aud="auth"))

        assert not vault._verified


class TestMemory:
    def test_is_bounded_on_both_sides(
        self, tokens: Callable[[str], ServiceTokens], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(context, "_REMEMBERED", 5)
        monkeypatch.setattr(context, "_TOKENS", 3)
        gateway, vault = tokens("gateway"), tokens("vault")

        for number in range(23):
            principal = ids.realm("issuer", str(number))
            ctx = AuthContext(tenant=ids.new("ws"), principal=principal, permissions=frozenset({"secrets:read"}))
            assert vault.verify(gateway.mint(ctx, "vault")).principal == principal

            assert len(gateway._minted) <= 3
            assert len(gateway._begun) <= 5
            assert len(vault._verified) <= 5

    def test_the_oldest_goes_first(
        self, tokens: Callable[[str], ServiceTokens], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All at once would be checked again in the same moment."""
        monkeypatch.setattr(context, "_REMEMBERED", 5)
        vault, made = tokens("vault"), [forge(crd=f"ses_{number}") for number in range(7)]
        callers = [vault.verify(token) for token in made]
        assert [vault.verify(token) is caller for token, caller in zip(made[2:], callers[2:], strict=True)] == [
            True
        ] * 5
        assert vault.verify(made[0]) is not callers[0]

    def test_equal_permissions_are_one_set(self, tokens: Callable[[str], ServiceTokens]) -> None:
        """A set of an owner's has 4 KB."""
        vault = tokens("vault")
        one, other = (vault.verify(forge(per=["a", "b"], crd=credential)) for credential in ("ses_1", "ses_2"))
        assert one.permissions is other.permissions
        assert vault.verify(forge(per=sorted(ROLES["owner"]))).permissions is ROLES["owner"]
