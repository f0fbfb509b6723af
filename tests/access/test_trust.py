"""Trust policies: what can be saved, by whom, and what a change ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from joserfc.jwk import ECKey

from deployments.access import trust
from deployments.access.audit import Trail
from deployments.deploys import projects
from deployments.errors import NotFound, Refusal
from deployments.models import AuditEntry, Environment, TrustPolicy
from tests.support.ci_tokens import GITHUB, GITLAB, KUBERNETES

pytestmark = pytest.mark.django_db
TRAIL = Trail.of_command("test")
CLUSTER = "https://oidc.example.com/cluster"


@pytest.fixture
def production(db: None) -> Environment:
    project = projects.create_project(name="Billing")
    return Environment.objects.select_related("project").get(project=project, slug="prod")


@pytest.fixture
def preview(production: Environment) -> Environment:
    return Environment.objects.select_related("project").get(project=production.project, slug="preview")


def create(environment: Environment, **more: Any) -> TrustPolicy:
    values: dict[str, Any] = {"kind": "github", "name": "main", "claims": GITHUB, "by": "ada@example.com"}
    return trust.create(environment=environment, trail=TRAIL, **(values | more))


def refused(environment: Environment, **more: Any) -> str:
    with pytest.raises(Refusal) as caught:
        create(environment, **more)
    assert not TrustPolicy.objects.filter(name=more.get("name", "main")).exists() or "name" in more
    return caught.value.sentence


def test_each_preset_saves_what_it_binds(production: Environment) -> None:
    policy = create(production)
    create(production, kind="gitlab", name="pipelines", claims=GITLAB)
    create(production, kind="kubernetes", name="cluster", claims=KUBERNETES, issuer=CLUSTER)
    create(production, kind="other", name="buildkite", issuer="https://agent.example.com", claims={"sub": "pipeline:x"})

    assert policy.issuer == "https://token.actions.githubusercontent.com"
    assert [each.name for each in trust.list_policies(environment=production)] == [
        "buildkite", "cluster", "main", "pipelines",
    ]  # fmt: skip
    assert trust.list_policies(project=production.project).count() == 4
    line = AuditEntry.objects.filter(action="add.trust_policy").earliest("pk")
    assert line.after is not None
    assert line.after["claims"] == GITHUB


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"claims": {}}, "must bind the claim repository_id"),
        ({"claims": {"ref": "refs/heads/main"}}, "must bind the claim repository_id"),
        ({"claims": {"repository_id": "1"}}, "must bind the claim repository_owner_id"),
        (
            {"claims": {"repository": "octo-org/billing", "repository_owner_id": "1"}},
            "must bind the claim repository_id",
        ),
        ({"claims": GITHUB | {"repository_id": "*"}}, "is a number"),
        ({"claims": GITHUB | {"repository_id": "octo-org/billing"}}, "is a number"),
        ({"claims": GITHUB | {"repository_id": "007"}}, "is a number"),
        ({"claims": GITHUB | {"repository_id": "１２"}}, "is a number"),
        ({"claims": GITHUB | {"sub": "repo:octo-org/*"}}, "is compared exactly"),
        ({"claims": GITHUB | {"ref": "*"}}, "would accept any value"),
        ({"claims": GITHUB | {"ref": "**/*"}}, "would accept any value"),
        ({"claims": GITHUB | {"ref": ""}}, "needs a value"),
        ({"claims": GITHUB | {"ref": " main"}}, "needs a value"),
        ({"claims": GITHUB | {"ref": "x" * 501}}, "needs a value"),
        ({"claims": GITHUB | {"ref": "a\0"}}, "needs a value"),
        ({"claims": GITHUB | {"aud": "x"}}, "cannot be part of a policy"),
        ({"claims": GITHUB | {"": "x"}}, "has a name"),
        ({"claims": GITHUB | {"actor=x": "y"}}, "without ="),
        ({"claims": GITHUB | {"ref": 1}}, "a name and a text"),
        ({"claims": GITHUB | {f"x{number}": "1" for number in range(20)}}, "at most 20 claims"),
        ({"kind": "gitlab", "claims": {"project_path": "acme/billing"}}, "must bind the claim project_id"),
        ({"kind": "gitlab", "claims": {"project_id": "20748", "ref": "main"}}, "a tag can have the name of a branch"),
        ({"kind": "kubernetes", "issuer": CLUSTER, "claims": {"kubernetes.io/namespace": "x"}}, "serviceaccount/uid"),
        ({"kind": "kubernetes", "issuer": CLUSTER, "claims": {"kubernetes.io/serviceaccount/name": "x"}}, "namespace"),
        ({"kind": "kubernetes", "claims": KUBERNETES}, "begins with https://"),
        ({"kind": "other", "issuer": CLUSTER, "claims": {"ref": "refs/heads/main"}}, "must bind the claim sub or"),
        ({"kind": "other", "issuer": CLUSTER, "claims": {"sub": "*"}}, "is compared exactly"),
        ({"kind": "other", "claims": {"sub": "x"}, "issuer": "https://gitlab.com"}, "choose that kind"),
        ({"kind": "other", "claims": {"sub": "x"}, "issuer": "https://gitlab.com/"}, "choose that kind"),
        ({"kind": "gitlab", "claims": GITLAB, "issuer": trust.GITHUB_ISSUER}, "choose that kind"),
        *(
            ({"kind": "other", "claims": {"sub": "repo:a/b"}, "issuer": issuer}, "choose that kind")
            for issuer in (
                f"{trust.GITHUB_ISSUER}/octo-enterprise",
                f"{trust.GITHUB_ISSUER}:443",
                "https://TOKEN.actions.githubusercontent.com.",
                "https://gitlab.com/x",
            )
        ),
        ({"kind": "circus"}, "The kind is one of"),
        ({"issuer": "http://ghe.example.com"}, "begins with https://"),
        ({"issuer": "https://ghe.example.com/?x"}, "no query"),
        ({"issuer": "https://10.0.0.1"}, "an administrator can allow it"),
        ({"issuer": "https://ghe.example.com:8080"}, "The port"),
        ({"issuer": "https://me:you@ghe.example.com"}, "user name"),
        ({"name": ""}, "has a name"),
        ({"name": "x" * 101}, "has a name"),
        ({"branch_claim": "ref"}, "Only a policy of preview"),
    ],
)
def test_a_policy_that_would_accept_tokens_of_others_is_refused(
    production: Environment, values: dict[str, Any], words: str
) -> None:
    assert words in refused(production, **values)
    assert not TrustPolicy.objects.exists()


def test_a_policy_of_preview_names_the_claim_with_the_branch(preview: Environment) -> None:
    assert create(preview).branch_claim == "head_ref"
    assert create(preview, kind="gitlab", name="merge requests", claims=GITLAB).branch_claim == "ref"
    assert "names no branch" in refused(preview, kind="kubernetes", name="x", claims=KUBERNETES, issuer=CLUSTER)
    assert "Name the claim" in refused(preview, name="x", branch_claim="two words")


def test_a_branch_has_no_policy_of_its_own(preview: Environment) -> None:
    branch = Environment.objects.create(
        project=preview.project, type=preview.type, slug="preview", parent=preview, branch="x"
    )

    assert "for its branches" in refused(branch)


@pytest.mark.parametrize(
    "private",
    [{"allow_private": True}, {"ca": "-----BEGIN"}, {"jwks": "{}"}],
)
def test_only_an_administrator_trusts_a_private_issuer(production: Environment, private: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        create(production, **private)
    assert caught.value.code == "trust_needs_administrator"
    policy = create(production)
    with pytest.raises(Refusal) as caught:
        trust.change(policy=policy, trail=TRAIL, **private)
    assert caught.value.code == "trust_needs_administrator"


def test_a_private_issuer_cannot_be_replaced_by_another_without_the_right(production: Environment) -> None:
    policy = create(production, issuer="https://10.0.0.1", allow_private=True, may_trust_private=True)

    policy = trust.change(policy=policy, claims=GITHUB | {"ref": "refs/heads/next"}, trail=TRAIL)  # the issuer stays
    assert policy.claims["ref"] == "refs/heads/next"
    for change in ({"issuer": "https://10.0.0.2"}, {"ca": "x"}, {"jwks": "x"}):
        with pytest.raises(Refusal) as caught:
            trust.change(policy=policy, trail=TRAIL, **change)  # type: ignore[arg-type]
        assert caught.value.code == "trust_needs_administrator"
    assert not trust.change(policy=policy, issuer=trust.GITHUB_ISSUER, allow_private=False, trail=TRAIL).allow_private


def test_pasted_keys_and_certificates_are_read_before_they_are_saved(production: Environment) -> None:
    private = ECKey.generate_key("P-256", {"kid": "first"})
    weak = {"kty": "RSA", "kid": "weak", "n": "wQ", "e": "AQAB"}
    short = {"kty": "RSA", "kid": "short", "n": "w" * 171, "e": "AQAB"}
    filled = short | {"n": "A" * 200 + "w" * 172}
    for keys, words in (
        ("x", "not JSON"), ("[]", "not a JSON object"), ('{"keys": []}', "no key"),
        (json.dumps({"keys": [private.as_dict(private=True)]}), "contains a private key"),
        (json.dumps({"keys": [{"kty": "oct", "kid": "x", "k": "c2VjcmV0"}]}), "contains a private key"),
        (json.dumps({"keys": [weak]}), "no key"), (json.dumps({"keys": [short]}), "no key"),
        (json.dumps({"keys": [filled]}), "no key"), (json.dumps({"keys": [{"kty": "RSA", "kid": "x"}]}), "no key"),
        (json.dumps({"keys": [private.as_dict(private=False) | {"use": "enc"}]}), "no key"),
        ("x" * 65_537, "64 KiB"),
    ):  # fmt: skip
        assert words in refused(production, jwks=keys, may_trust_private=True)
    for text in ("-----BEGIN CERTIFICATE-----", "Zertifikat für die Brücke", "\0"):
        assert "not a certificate" in refused(production, ca=text, may_trust_private=True)
    for kind in ("PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"):
        text = f"-----BEGIN {kind}-----\nMIIE\n-----END {kind}-----"
        assert "contains a private key" in refused(production, ca=text, may_trust_private=True)
    good = json.dumps({"keys": [private.as_dict(private=False)]})
    assert create(production, jwks=good, issuer="https://kubernetes.default.svc", may_trust_private=True).jwks == good


def test_a_name_is_taken_once_in_an_environment(production: Environment, preview: Environment) -> None:
    policy = create(production)
    create(preview)
    other = create(production, name="other")

    with pytest.raises(Refusal) as caught:
        create(production)
    assert caught.value.code == "trust_name_taken"
    with pytest.raises(Refusal) as caught:
        trust.change(policy=other, name=" main ", trail=TRAIL)
    assert caught.value.code == "trust_name_taken"
    assert trust.change(policy=policy, name="main", trail=TRAIL) == policy
    assert not AuditEntry.objects.filter(action="change.trust_policy", outcome="done").exists()


def test_an_environment_has_a_bounded_number_of_policies(
    production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "MAX_POLICIES_OF_ENVIRONMENT", 1)
    create(production)

    with pytest.raises(Refusal) as caught:
        create(production, name="second")
    assert caught.value.code == "trust_too_many"


def test_each_change_has_its_line_and_a_refused_one_its_reason(production: Environment) -> None:
    policy = create(production)
    trust.change(policy=policy, enabled=False, trail=TRAIL)
    with pytest.raises(Refusal):
        trust.change(policy=policy, claims={}, trail=TRAIL)
    trust.delete(policy=policy, trail=TRAIL)

    lines = list(AuditEntry.objects.order_by("pk").values_list("action", "outcome"))
    assert [action for action, _ in lines] == [
        "add.trust_policy", "change.trust_policy", "change.trust_policy", "delete.trust_policy",
    ]  # fmt: skip
    assert "must bind" in lines[2][1]
    for act in (trust.change, trust.delete):
        with pytest.raises(NotFound):
            act(policy=policy, trail=TRAIL)


def test_claims_are_written_one_a_line() -> None:
    assert trust.from_lines(" ref = refs/heads/a=b\n\nsub=x \n") == {"ref": "refs/heads/a=b", "sub": "x"}
    assert trust.from_lines(trust.as_lines(GITHUB)) == GITHUB
    for text, words in (("ref", "NAME = VALUE"), ("ref = a\nref = b", "written twice")):
        with pytest.raises(ValueError, match=words):
            trust.from_lines(text)


def test_a_claim_in_an_object_is_found_by_its_path() -> None:
    claims = {"kubernetes.io": {"namespace": "x", "serviceaccount": {"uid": "1"}}, "a/b": "exact", "a": {"b": "path"}}

    assert trust.claim_of(claims, "kubernetes.io/serviceaccount/uid") == "1"
    assert trust.claim_of(claims, "a/b") == "exact"
    assert trust.claim_of(claims, "kubernetes.io/serviceaccount/uid/x") is None
    assert trust.differing({"a/b": "exact", "kubernetes.io/namespace": "y", "z": "1"}, claims) == [
        "kubernetes.io/namespace", "z",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "actual", "accepted"),
    [
        ("refs/tags/v*", "refs/tags/v", True),
        ("refs/tags/v*", "refs/tags/v1/x", False),
        ("refs/heads/*", "refs/heads/main", True),
        ("refs/heads/*", "refs/heads/", True),
        ("refs/heads/*", "refs/heads", False),
        ("refs/*/main", "refs/heads/main", True),
        ("refs/*/main", "refs/heads/x/main", False),
        ("refs/heads/a*a", "refs/heads/a", False),
        ("refs/heads/a*a", "refs/heads/aa", True),
        ("refs/heads/*ab*ab*", "refs/heads/xabab", True),
        ("refs/heads/*ab*ab*", "refs/heads/xab", False),
        ("refs/heads/*ab*b", "refs/heads/ab", False),
        ("refs/heads/*b*bc", "refs/heads/abbc", True),
        ("refs/heads/*b*bc", "refs/heads/abc", False),
        ("refs/heads/**", "refs/heads/x", True),
        ("refs/heads/v.*", "refs/heads/v1", False),
        ("refs/heads/[a]*", "refs/heads/a", False),
        ("refs/heads/*", "refs/heads/x\ny", True),
    ],
)
def test_an_asterisk_stands_for_any_characters_but_a_slash(expected: str, actual: str, accepted: bool) -> None:
    assert trust.differing({"ref": expected}, {"ref": actual}) == ([] if accepted else ["ref"])


@pytest.mark.parametrize("part", ["*", "*a", "*aa", "a*"])
def test_a_claim_with_many_asterisks_is_compared_in_an_instant(part: str) -> None:
    # As a regular expression, this comparison takes longer than the process lives.
    expected = "refs/heads/" + part * (480 // len(part)) + "b"

    assert trust.differing({"ref": expected}, {"ref": "refs/heads/" + "a" * 50_000}) == ["ref"]
