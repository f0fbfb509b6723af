"""Tokens of CI systems against a real issuer over TLS: which are exchanged, once, and which of 200 are refused."""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from django.db import connection
from django.db.models.functions import Now
from joserfc.jwk import ECKey, OKPKey, RSAKey

from deployments import config, outbound_http
from deployments.access import keys, openid, token_exchange, trust
from deployments.access.audit import Trail
from deployments.deploys import projects
from deployments.errors import Refusal
from deployments.models import AccessKey, AuditEntry, Environment, ExchangedToken, Project, TrustPolicy
from tests.support import ci_tokens
from tests.support.certificates import certificate
from tests.support.ci_tokens import GITHUB, GITLAB, KUBERNETES, github, gitlab, kubernetes, signed, signed_text
from tests.support.openid_provider import Provider, running

ORIGIN = "https://deploy.example.com"
TRAIL = Trail.of_command("test")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("issuer"), "localhost")


@pytest.fixture(scope="module")
def server(pem: tuple[Path, Path]) -> Iterator[Provider]:
    with running(pem) as provider:
        yield provider


@pytest.fixture
def issuer(server: Provider) -> Provider:
    server.faults, server.instead, server.more = set(), {}, {}
    server.calls.clear()
    openid._published.clear()
    return server


@pytest.fixture(autouse=True)
def configuration(configure: Callable[..., config.Configuration]) -> config.Configuration:
    return configure(APP_ORIGIN=ORIGIN)


@pytest.fixture
def project(transactional_db: None) -> Project:
    return projects.create_project(name="Billing")


@pytest.fixture
def production(project: Project) -> Environment:
    return Environment.objects.select_related("project").get(project=project, slug="prod")


@pytest.fixture
def policy(issuer: Provider, production: Environment, pem: tuple[Path, Path]) -> TrustPolicy:
    return ci_tokens.policy(issuer, production, pem[0])


def exchange(token: str, **which: Any) -> token_exchange.Exchanged:
    return token_exchange.exchange(token=token, audience=ORIGIN, trail=TRAIL, **which)


def refused(token: str, **which: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        exchange(token, **which)
    assert token not in caught.value.sentence
    return caught.value


# ---------------------------------------------------------------------------------------------------- what is accepted


def test_a_github_token_becomes_a_key_of_one_deployment(issuer: Provider, policy: TrustPolicy) -> None:
    made = exchange(signed(issuer, github(issuer)))

    key = keys.authenticate(made.text)
    assert key == made.key
    assert key is not None
    assert (key.kind, key.scopes, key.environment, key.trust_policy) == (
        "deploy", ["one_deployment"], policy.environment, policy,
    )  # fmt: skip
    assert made.text.startswith("tr_prod_")
    assert key.expires_at is not None
    assert key.expires_at - key.created_at == timedelta(minutes=10)
    assert key.name == "main branch: repo:octo-org/billing:ref:refs/heads/main"
    line = AuditEntry.objects.get(action="exchange.trust_policy")
    assert line.actor == "GitHub Actions: repo:octo-org/billing:ref:refs/heads/main"
    assert line.after is not None
    assert line.after["claims"]["run_id"] == '"9876543210"'
    policy.refresh_from_db()
    assert policy.last_used_at is not None
    assert policy.last_error == ""


def test_a_gitlab_and_a_kubernetes_token_are_exchanged(
    issuer: Provider, production: Environment, pem: tuple[Path, Path]
) -> None:
    ci_tokens.policy(issuer, production, pem[0], kind="gitlab", claims=GITLAB, name="pipelines")
    ci_tokens.policy(issuer, production, pem[0], kind="kubernetes", claims=KUBERNETES, name="cluster")

    assert exchange(signed(issuer, gitlab(issuer))).policy.name == "pipelines"
    assert exchange(signed(issuer, kubernetes(issuer))).policy.name == "cluster"


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "ES256", "ES384", "Ed25519"])
def test_a_signature_of_each_accepted_algorithm_counts(
    issuer: Provider, production: Environment, algorithm: str
) -> None:
    kind: dict[str, Any] = {"ES256": (ECKey, "P-256"), "ES384": (ECKey, "P-384"), "Ed25519": (OKPKey, "Ed25519")}
    made, size = kind.get(algorithm, (RSAKey, 2048))
    key = made.generate_key(size, {"kid": "pasted"})
    trust.create(
        environment=production, kind="github", name="pasted", claims=GITHUB, issuer=issuer.issuer, trail=TRAIL, by="a",
        jwks=json.dumps({"keys": [key.as_dict(private=False)]}), may_trust_private=True,
    )  # fmt: skip

    made_key = exchange(signed(issuer, github(issuer), key=key, kid="pasted", alg=algorithm))

    assert made_key.policy.name == "pasted"
    assert not issuer.calls  # the issuer is not asked


@pytest.mark.costly
def test_the_keys_are_asked_once_and_again_for_an_unknown_key_after_a_minute(
    issuer: Provider, policy: TrustPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _ in range(3):
        exchange(signed(issuer, github(issuer)))
    assert issuer.calls["keys"] == 1

    before = issuer.key
    issuer.rotate_key()
    try:
        for _ in range(3):
            assert refused(signed(issuer, github(issuer))).code == "trust_signature"
        assert issuer.calls["keys"] == 1
        clock[0] += 61
        exchange(signed(issuer, github(issuer)))
        assert issuer.calls["keys"] == 2
        assert refused(signed(issuer, github(issuer), key=before, kid=before.kid)).code == "trust_signature"
    finally:
        issuer.key = before


def test_a_preview_token_gives_a_key_of_its_branch(issuer: Provider, project: Project, pem: tuple[Path, Path]) -> None:
    preview = Environment.objects.select_related("project").get(project=project, slug="preview")
    claims = {name: GITHUB[name] for name in ("repository_id", "repository_owner_id")}
    ci_tokens.policy(issuer, preview, pem[0], claims=claims)
    pull_request = {"event_name": "pull_request", "head_ref": "feature/x", "ref": "refs/pull/7/merge"}

    assert exchange(signed(issuer, github(issuer, **pull_request))).key.branch == "feature/x"
    assert 'claim head_ref is ""' in refused(signed(issuer, github(issuer))).sentence


def test_a_policy_with_a_star_accepts_what_differs_only_there(
    issuer: Provider, production: Environment, pem: tuple[Path, Path]
) -> None:
    ci_tokens.policy(issuer, production, pem[0], claims=GITHUB | {"ref": "refs/tags/v*"})

    assert exchange(signed(issuer, github(issuer, ref="refs/tags/v1.2", ref_type="tag")))
    others: list[Any] = [
        "refs/tags/v1/x",
        "refs/tags/x",
        "refs/heads/refs/tags/v1",
        "refs/tags/v1\n/x",
        1,
        ["refs/tags/v1"],
    ]
    for ref in others:
        assert refused(signed(issuer, github(issuer, ref=ref))).code == "trust_claim"


# -------------------------------------------------------------------------------------------------------------- once


def test_a_token_is_exchanged_once(issuer: Provider, policy: TrustPolicy) -> None:
    token = signed(issuer, github(issuer))
    exchange(token)

    again = refused(token)

    assert again.code == "trust_token_used"
    assert "new token" in again.sentence
    assert AccessKey.objects.count() == 1


def test_a_token_without_an_id_is_exchanged_once_however_its_signature_is_written(
    issuer: Provider, production: Environment
) -> None:
    key = ECKey.generate_key("P-256", {"kid": "pasted"})
    trust.create(
        environment=production, kind="github", name="pasted", claims=GITHUB, issuer=issuer.issuer, trail=TRAIL, by="a",
        jwks=json.dumps({"keys": [key.as_dict(private=False)]}), may_trust_private=True,
    )  # fmt: skip
    claims = github(issuer)
    del claims["jti"]
    exchange(signed(issuer, claims, key=key, kid="pasted", alg="ES256"))

    # ECDSA signs one text in many ways.
    assert refused(signed(issuer, claims, key=key, kid="pasted", alg="ES256")).code == "trust_token_used"


@pytest.mark.costly
def test_of_sixteen_exchanges_at_once_one_gets_a_key(issuer: Provider, policy: TrustPolicy) -> None:
    token = signed(issuer, github(issuer))
    exchange(signed(issuer, github(issuer)))  # the keys are known from here on
    start, made, codes = threading.Barrier(16), [], []

    def one() -> None:
        start.wait(10)
        try:
            made.append(exchange(token))
        except Refusal as error:
            codes.append(error.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(made) == 1
    assert codes == ["trust_token_used"] * 15
    assert AccessKey.objects.count() == 2
    assert ExchangedToken.objects.count() == 2


def test_a_token_is_forgotten_after_its_end(issuer: Provider, policy: TrustPolicy) -> None:
    exchange(signed(issuer, github(issuer)))
    ExchangedToken.objects.update(expires_at=Now() - timedelta(seconds=1))

    exchange(signed(issuer, github(issuer)))

    assert ExchangedToken.objects.count() == 1


# ------------------------------------------------------------------------------------------------- which policy counts


def test_a_token_for_two_environments_has_to_name_one(
    issuer: Provider, policy: TrustPolicy, project: Project, pem: tuple[Path, Path]
) -> None:
    staging = Environment.objects.select_related("project").get(project=project, slug="staging")
    ci_tokens.policy(issuer, staging, pem[0])

    assert refused(signed(issuer, github(issuer))).code == "trust_ambiguous"
    made = exchange(signed(issuer, github(issuer)), project_ref=project.ref, environment="stg")
    assert made.policy.environment == staging
    assert made.text.startswith("tr_stg_")


def test_what_a_policy_expects_is_told_only_to_its_own_repository_or_by_name(
    issuer: Provider, policy: TrustPolicy, project: Project
) -> None:
    other = refused(signed(issuer, github(issuer, repository_id="999")))
    assert other.code == "trust_claim_unnamed"
    assert ci_tokens.REPOSITORY_ID not in other.sentence
    assert '"999"' in other.sentence
    policy.refresh_from_db()
    assert policy.last_error == ""  # of somebody else's repository
    assert not AuditEntry.objects.filter(action="exchange.trust_policy").exists()

    named = refused(signed(issuer, github(issuer, repository_id="999")), project_ref=project.ref, environment="prod")
    assert f'claim repository_id is "999", and it must be "{ci_tokens.REPOSITORY_ID}"' in named.sentence
    own = refused(signed(issuer, github(issuer, ref="refs/heads/x")))
    assert 'claim ref is "refs/heads/x", and it must be "refs/heads/main"' in own.sentence
    policy.refresh_from_db()
    assert policy.last_error == own.sentence
    lines = AuditEntry.objects.filter(action="exchange.trust_policy").order_by("pk")
    assert [each.outcome for each in lines] == [named.sentence, own.sentence]


def test_a_pull_request_of_anybody_gets_no_key_from_another_kind_of_policy_either(
    issuer: Provider, production: Environment, pem: tuple[Path, Path]
) -> None:
    sub = "repo:octo-org/billing:ref:refs/heads/main"
    ci_tokens.policy(issuer, production, pem[0], kind="other", claims={"sub": sub})

    assert refused(signed(issuer, github(issuer, event_name="pull_request_target"))).code == "trust_claim"
    assert exchange(signed(issuer, github(issuer)))


def test_a_policy_that_is_off_changed_or_deleted_gives_no_key(issuer: Provider, policy: TrustPolicy) -> None:
    made = exchange(signed(issuer, github(issuer)))
    trust.change(policy=policy, enabled=False, trail=TRAIL)
    assert keys.authenticate(made.text) is None
    assert refused(signed(issuer, github(issuer))).code == "trust_no_policy"

    policy = trust.change(policy=policy, enabled=True, trail=TRAIL)
    made = exchange(signed(issuer, github(issuer)))
    trust.change(policy=policy, name="another name", trail=TRAIL)
    assert keys.authenticate(made.text) is not None
    trust.delete(policy=policy, trail=TRAIL)
    assert keys.authenticate(made.text) is None


def test_a_policy_that_changes_during_an_exchange_gives_no_key(
    issuer: Provider, policy: TrustPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = openid.published_keys

    def changed_meanwhile(*args: Any, **more: Any) -> Any:
        trust.change(policy=policy, claims=GITHUB | {"ref": "refs/heads/other"}, trail=TRAIL)
        return real(*args, **more)

    monkeypatch.setattr(openid, "published_keys", changed_meanwhile)

    assert refused(signed(issuer, github(issuer))).code == "trust_no_policy"
    assert not AccessKey.objects.exists()


def test_an_archived_project_gives_no_key(issuer: Provider, policy: TrustPolicy, project: Project) -> None:
    projects.archive(project=project, trail=TRAIL)

    assert refused(signed(issuer, github(issuer))).code == "project_archived"
    assert not ExchangedToken.objects.exists()


# ------------------------------------------------------------------------------------------------ an issuer that fails


@pytest.mark.costly
def test_an_issuer_that_lies_about_its_name_or_fails_is_not_asked_again_at_once(
    issuer: Provider, policy: TrustPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for fault, words in (("wrong_document", "names another issuer"), ("error_500", "it answered 500"),
                         ("not_json", "not JSON")):  # fmt: skip
        issuer.faults, issuer.calls = {fault}, type(issuer.calls)()
        for _ in range(3):
            found = refused(signed(issuer, github(issuer)))
            assert found.code == "trust_issuer_unreachable"
            assert found.retryable
            assert words in found.sentence
        assert issuer.calls["openid-configuration"] == 1
        policy.refresh_from_db()
        assert policy.last_error == found.sentence
        clock[0] += 11
    issuer.faults = set()
    exchange(signed(issuer, github(issuer)))


@pytest.mark.costly
def test_a_key_that_is_known_counts_while_the_issuer_does_not_answer(
    issuer: Provider, policy: TrustPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    exchange(signed(issuer, github(issuer)))
    issuer.faults = {"error_500"}
    for seconds in (61, 5, 11):
        clock[0] += seconds
        assert refused(signed(issuer, github(issuer), kid="unknown")).code == "trust_issuer_unreachable"
        exchange(signed(issuer, github(issuer)))

    clock[0] += openid.KEPT_FOR
    assert refused(signed(issuer, github(issuer))).code == "trust_issuer_unreachable"
    issuer.faults = set()
    clock[0] += 11
    exchange(signed(issuer, github(issuer)))


@pytest.mark.parametrize("more", [{"allow_private": False}, {"ca": ""}, {"ca": "other"}])
def test_a_private_issuer_needs_the_permission_and_the_certificate_of_its_policy(
    issuer: Provider, policy: TrustPolicy, tmp_path: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound_http, "ALLOWED_PORTS", (443, issuer.port))
    if more.get("ca") == "other":
        more = {"ca": certificate(tmp_path, "localhost")[0].read_text()}
    TrustPolicy.objects.filter(pk=policy.pk).update(**more)

    found = refused(signed(issuer, github(issuer)))

    assert found.code == "trust_issuer_unreachable"
    reason = "an administrator can allow it" if "allow_private" in more else "does not trust its certificate"
    assert reason in found.sentence
    assert not issuer.calls


def test_an_issuer_is_asked_without_a_proxy(
    issuer: Provider, policy: TrustPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # through it, no address would be compared with the rules

    assert exchange(signed(issuer, github(issuer)))


def test_keys_at_an_address_that_is_not_allowed_are_not_fetched(issuer: Provider, policy: TrustPolicy) -> None:
    for address in ("http://localhost:80/keys", "https://169.254.169.254/keys", "file:///etc/passwd", ""):
        openid._published.clear()
        issuer.more = {"jwks_uri": address}
        assert refused(signed(issuer, github(issuer))).code == "trust_issuer_unreachable"
    assert not issuer.calls["keys"]


# ------------------------------------------------------------------------------------------------------ hostile tokens


def hostile(issuer: Provider) -> Iterator[tuple[str, str]]:
    """(what is wrong, token): each would be exchanged if that one thing were not wrong."""
    good = github(issuer)
    text = signed(issuer, good)
    header, payload, signature = text.split(".")
    usual = {"alg": "RS256", "typ": "JWT", "kid": issuer.key.kid}
    foreign = RSAKey.generate_key(2048, {"kid": issuer.key.kid})
    public = issuer.key.as_dict(private=False)

    # Algorithms and signatures.
    for algorithm in ("none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "rs256", "RS1", "RS256 ", "dir",
                      "RSA-OAEP", "A128KW", "PBES2-HS256+A128KW", "ES256K", None, 256, ["RS256"], {"alg": "RS256"},
                      True):  # fmt: skip
        for end in ("", signature):
            yield f"alg {algorithm!r}", f"{ci_tokens.part(usual | {'alg': algorithm})}.{payload}.{end}"
    pem = issuer.key.as_pem(private=False)
    for secret in (pem, pem.strip(), json.dumps(public).encode(), public["n"].encode(), issuer.key.kid.encode() * 3):
        for algorithm in ("HS256", "HS384", "HS512"):
            begin = f"{ci_tokens.part(usual | {'alg': algorithm})}.{payload}"
            mac = hmac.new(secret, begin.encode(), f"sha{algorithm[2:]}").digest()
            yield f"{algorithm} with the public key", f"{begin}.{ci_tokens.part(mac)}"
    yield "signed by another key of this name", signed(issuer, good, key=foreign)
    yield "PS256 with an RS256 signature", f"{ci_tokens.part(usual | {'alg': 'PS256'})}.{payload}.{signature}"
    for algorithm in ("ES256", "ES384", "Ed25519", "EdDSA", "RS512", "PS384"):
        yield f"RS256 signature as {algorithm}", f"{ci_tokens.part(usual | {'alg': algorithm})}.{payload}.{signature}"
    for cut in (1, 10, 100):
        yield "a signature that is cut", f"{header}.{payload}.{signature[:-cut]}"
    for place in (0, 5, 50, len(signature) // 2):
        other = "A" if signature[place] != "A" else "B"
        yield (
            "a signature with another letter",
            f"{header}.{payload}.{signature[:place]}{other}{signature[place + 1 :]}",
        )
    changed = github(issuer, ref="refs/heads/main", actor="mallory") | {"jti": good["jti"]}
    yield "claims that were changed", f"{header}.{ci_tokens.part(changed)}.{signature}"

    # Headers that name a key.
    for kid in ("", " ", "unknown", issuer.key.kid + " ", issuer.key.kid.upper(), "../../dev/null", "/etc/passwd", "0",
                "' OR 1=1 --", "https://evil.example.com/keys", "x" * 10_000, "f\u0456rst", None, 1, True, ["first"],
                {"kid": 1}):  # fmt: skip
        yield f"kid {str(kid)[:20]!r}", signed_text(issuer, usual | {"kid": kid}, good)
    yield "no kid", signed_text(issuer, {"alg": "RS256"}, good)
    for name, value in (
        ("jku", "https://evil.example.com/keys"), ("jku", f"{issuer.issuer}/keys"), ("x5u",
        "https://evil.example.com/x"),
        ("jwk", foreign.as_dict(private=False)), ("jwk", public), ("x5c", ["MIIB"]), ("crit", ["exp"]), ("crit", []),
        ("b64", False), ("zip", "DEF"), ("enc", "A256GCM"),
    ):  # fmt: skip
        yield f"header {name}", signed_text(issuer, usual | {name: value}, good)
        yield (
            f"header {name}, signed by its key",
            signed_text(issuer, usual | {name: value}, good).rpartition(".")[0]
            + ("." + signed(issuer, good, key=foreign).rpartition(".")[2]),
        )

    # Forms.
    for change in (text + " ", " " + text, text + "\n", "\n" + text, text + "=", text + "==", text + ".", "." + text,
                   f"{header}.{payload}", f"{header}..{signature}", f".{payload}.{signature}", f"{text}.{signature}",
                   f"{header}.{payload}.", text.replace(".", "..", 1), text.replace(".", " .", 1), "", ".", "..",
                   "a.b.c",
                   f"Bearer {text}", f'"{text}"', text.replace("-", "+").replace("_", "/") + "+", text + "\u200b",
                   "\ufeff" + text, text.replace(".", "\u3002", 1), text + "\0", "A" * 60_000,
                   ".".join(["A" * 20_000] * 3),
                   text + "\r\nX: y", header + "." + payload + ".é"):  # fmt: skip
        yield "another form", change
    yield "a header that is no object", signed_text(issuer, b"[]", good)
    yield "a header that is no JSON", signed_text(issuer, b"{", good)
    pairs = json.dumps(good)[1:-1].encode()
    head = json.dumps(usual)[1:-1].encode()
    for name, raw in (
        ("a claim twice", b"{" + pairs + b', "repository_id": "1"}'), ("a claim twice",
        b'{"ref": "x", ' + pairs + b"}"),
        ("iss twice", b'{"iss": "https://evil.example.com", ' + pairs + b"}"), ("exp twice",
        b'{"exp": 1, ' + pairs + b"}"),
        ("aud twice", b"{" + pairs + b', "aud": "x"}'), ("NaN", b"{" + pairs + b', "x": NaN}'),
        ("infinite", b"{" + pairs + b', "x": Infinity}'), ("text behind", b"{" + pairs + b"} x"),
        ("a list", b"[{" + pairs + b"}]"), ("no JSON", pairs), ("UTF-16", json.dumps(good).encode("utf-16")),
        ("a byte order mark", b"\xef\xbb\xbf{" + pairs + b"}"), ("no UTF-8", b"{" + pairs + b', "x": "\xff"}'),
        ("deep", b"{" + pairs + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}"), ("null", b"null"), ("a number", b"1"),
        ("a long number", b"{" + pairs + b', "x": ' + b"9" * 5000 + b"}"), ("a repeated inner name",
        b"{" + pairs + b', "x": {"a": 1, "a": 2}}'),
    ):  # fmt: skip
        yield name, signed_text(issuer, usual, raw)
    yield "alg twice", signed_text(issuer, b'{"alg": "none", ' + head + b"}", good)
    yield "kid twice", signed_text(issuer, b"{" + head + b', "kid": "first"}', good)

    # Claims that every token has.
    now, wrong = int(time.time()), cast(Any, None)
    for aud in ("", "https://deploy.example.com/", "https://DEPLOY.example.com", "http://deploy.example.com",
        ORIGIN + ":443",
                "https://deploy.example.com.evil.example", "https://evil.example?https://deploy.example.com",
                ORIGIN + " ",
                "https://dеploy.example.com", [], [ORIGIN, "https://evil.example.com"], ["https://evil.example.com",
                ORIGIN],
                [ORIGIN, ORIGIN], [[ORIGIN]], {"0": ORIGIN}, None, 1, True, "https://github.com/octo-org",
                [ORIGIN.upper()]):  # fmt: skip
        yield f"aud {aud!r}", signed(issuer, github(issuer, aud=aud))
    for iss in ("", issuer.issuer + "/", issuer.issuer.upper(), issuer.issuer + " ",
        issuer.issuer.replace("localhost", "lоcalhost"),
                issuer.issuer.replace("https", "http"), [issuer.issuer], None, 1, {"iss": issuer.issuer},
                "https://evil.example.com",
                issuer.issuer + "/../x", issuer.issuer + "#", issuer.issuer + "?x"):  # fmt: skip
        yield f"iss {iss!r}", signed_text(issuer, usual, github(issuer, iss=iss))
    for exp in (
        now - 31,
        now - 3600,
        0,
        -1,
        now + 25 * 3600,
        10**12,
        10**30,
        1e300,
        None,
        str(now + 300),
        True,
        [now + 300],
        now * 1000,
    ):
        yield f"exp {exp!r}", signed_text(issuer, usual, github(issuer, exp=exp))
    for iat in (now + 120, now + 400, None, str(now), True, -(10**20), 0, [now], now * 1000, 10**40):
        yield f"iat {iat!r}", signed_text(issuer, usual, github(issuer, iat=iat))
    some: list[Any] = [now + 120, now + 86_400, None, str(now), False, {}, 10**25]
    for nbf in some:
        yield f"nbf {nbf!r}", signed_text(issuer, usual, github(issuer, nbf=nbf))
    for name in ("exp", "iat", "aud", "iss", "repository_id", "repository_owner_id", "ref"):
        yield f"no {name}", signed(issuer, {key: value for key, value in good.items() if key != name})
    yield "exp before iat", signed(issuer, github(issuer, iat=now, exp=now - 10))
    some = ["", 1, [], {}, False]
    for jti in some:
        yield f"jti {jti!r}", signed(issuer, github(issuer, jti=jti))

    # What a database, a calendar or a printer of JSON fails on.
    deep: Any = "x"
    for _ in range(400):
        deep = [deep]
    for claim in ("aud", "iss", "exp", "iat", "nbf", "jti", "ref", "repository_id"):
        for odd in (
            deep,
            {"a": deep},
            "\0",
            f"{issuer.issuer}\0",
            "\ud800",
            10**400,
            -(10**400),
            1.5e308,
            ["\ud800", "\0"],
        ):
            if claim != "jti" or not isinstance(odd, str):  # any text is an id
                yield f"{claim} {str(odd)[:20]!r}", signed_text(issuer, usual, github(issuer, **{claim: odd}))

    # Claims of the policy.
    right = {
        "repository_id": ci_tokens.REPOSITORY_ID,
        "repository_owner_id": ci_tokens.OWNER_ID,
        "ref": "refs/heads/main",
    }
    for name, value in right.items():
        for wrong in (value + " ", " " + value, value + "\n", value + "\0", value.upper() + "X", value[:-1],
            value + "0", "*", "", None,
                      [value], {"value": value}, True, 0, value + "\u200b", value.translate(LOOK_ALIKES), "%" + value,
                      f"{value}|x"):  # fmt: skip
            yield f"{name} {wrong!r}", signed(issuer, github(issuer, **{name: wrong}))
        if value.isdecimal():
            for wrong in (int(value), float(value), "0" + value, "+" + value, value + ".0", hex(int(value))):
                yield f"{name} {wrong!r}", signed(issuer, github(issuer, **{name: wrong}))
    for ref in ("refs/heads/Main", "refs/heads/main/x", "refs/heads/mainx", "main", "heads/main", "refs/tags/main",
        "refs/pull/1/merge",
                "refs/heads/feature", "refs/heads//main", "refs/heads/main^{}", "REFS/HEADS/MAIN"):  # fmt: skip
        yield f"ref {ref}", signed(issuer, github(issuer, ref=ref))
    yield "the same name with another id", signed(issuer, github(issuer, repository_id="74931561"))
    yield "the same repository of another owner", signed(issuer, github(issuer, repository_owner_id="1"))
    yield (
        "a fork",
        signed(issuer, github(issuer, repository="mallory/billing", repository_id="5", repository_owner_id="6")),
    )
    yield "a pull request of a fork", signed(issuer, github(issuer, event_name="pull_request_target"))
    yield (
        "other names only",
        signed(issuer, github(issuer) | {"repository_id": "1", "Repository_Id": ci_tokens.REPOSITORY_ID}),
    )
    yield "a claim in an object", signed(issuer, {**good, "repository_id": {"repository_id": ci_tokens.REPOSITORY_ID}})
    yield "a GitLab token", signed(issuer, gitlab(issuer))
    yield "a Kubernetes token", signed(issuer, kubernetes(issuer))


#: Letters and digits → characters that look the same.
LOOK_ALIKES = str.maketrans("aeo0123456789", "\u0430\u0435\u043e" + "".join(chr(0xFF10 + digit) for digit in range(10)))


def refusal_of(token: str, which: dict[str, str]) -> Refusal | None:
    try:
        exchange(token, **which)
    except Refusal as found:
        return found
    return None


@pytest.mark.costly
def test_hundreds_of_hostile_tokens_are_refused_and_none_gets_a_key(
    issuer: Provider, policy: TrustPolicy, project: Project
) -> None:
    codes: Counter[str] = Counter()
    tokens = {token: what for what, token in hostile(issuer)}
    for token, what in tokens.items():
        for which in ({}, {"project_ref": project.ref, "environment": "prod"}):
            found = refusal_of(token, which)
            assert found is not None, what
            assert len(found.sentence) < 700, what
            assert len(token) < 20 or token not in found.sentence, what
            codes[found.code] += 1

    print(f"{len(tokens)} hostile tokens, each refused twice: {dict(codes)}")
    assert len(tokens) >= 200
    assert codes.total() == 2 * len(tokens)
    assert set(codes) == {
        "trust_token_malformed", "trust_signature", "trust_claim", "trust_claim_unnamed", "trust_no_policy",
    }  # fmt: skip
    assert not AccessKey.objects.exists()
    assert not ExchangedToken.objects.exists()
    exchange(signed(issuer, github(issuer)))


@pytest.mark.parametrize(
    ("times", "accepted"),
    [
        ({"exp": -20}, False),  # before iat
        ({"exp": -20, "iat": -300, "nbf": -300}, True),
        ({"exp": -35, "iat": -300, "nbf": -300}, False),
        ({"iat": 20, "nbf": 20}, True),
        ({"iat": 60}, False),
        ({"nbf": 60}, False),
        ({"exp": 86_300}, True),
        ({"exp": 86_500}, False),
        ({"exp": 300.5, "iat": -0.5}, True),
    ],
)
def test_the_clocks_may_differ_by_thirty_seconds(
    issuer: Provider, policy: TrustPolicy, times: dict[str, float], accepted: bool
) -> None:
    now = int(time.time())
    token = signed(issuer, github(issuer, **{name: now + seconds for name, seconds in times.items()}))

    if accepted:
        exchange(token)
    else:
        assert refused(token).code == "trust_claim"
