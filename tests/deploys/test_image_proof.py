"""Nothing is promoted that is not proved to be there, whole, and pullable: against real pushes and real policies."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from deployments.aws import ecr
from deployments.config import Configuration, RegistryConfig
from deployments.deploys import image_proof, oci_registry, promotions
from deployments.errors import Refusal
from deployments.models import Deployment, Environment, Promotion, Repository
from deployments.reconcile import targets
from sandbox import images
from sandbox.control import Sandbox
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY, PULL, TRAIL
from tests.support.deploys import deploying, finalize, push, trust

Configure = Callable[..., Configuration]

PROBE = f"arn:aws:iam::{CLUSTER}:role/probe"
ORGANISATION = {"StringEquals": {"aws:PrincipalOrgID": "o-1234567890"}}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_proof, "RETRY_PAUSES_SECONDS", (0.0, 0.0))


@pytest.fixture
def consumers(configure: Configure, sandbox: Sandbox) -> Configuration:
    """The usual installation, with the cluster's account as one that must be able to pull."""
    return consuming(configure)


def consuming(configure: Configure, **settings: str) -> Configuration:
    return configure(
        **{
            "DEPLOY_REGISTRY_HOST": HOST,
            "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
            "DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS": CLUSTER,
            **settings,
        }
    )


def policy(*, actions: list[str] = PULL, principal: str = CLUSTER, **more: Any) -> str:
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": actions, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def probe(sandbox: Sandbox, *, may: str | None = "AmazonEC2ContainerRegistryPullOnly") -> None:
    iam = sandbox.client("iam", "cluster")
    iam.create_role(RoleName="probe", AssumeRolePolicyDocument=trust())
    if may:
        iam.attach_role_policy(RoleName="probe", PolicyArn=f"arn:aws:iam::aws:policy/{may}")


def refused(deployment: Deployment, configuration: Configuration, digest: str | None = None) -> Refusal:
    """The refusal, after it was made sure that nothing was promoted and that the row has the reason."""
    with pytest.raises(Refusal) as caught:
        finalize(deployment, configuration, digest)
    deployment.refresh_from_db()
    assert deployment.status == "DEPLOYING"
    assert not Promotion.objects.exists()
    assert deployment.receipt
    assert (deployment.receipt.unproved, deployment.receipt.code) == (caught.value.sentence, caught.value.code)
    return caught.value


def receipt(deployment: Deployment) -> dict[str, Any]:
    deployment.refresh_from_db()
    assert deployment.status == "DEPLOYED"
    assert Promotion.objects.get().deployment_id == deployment.id
    assert deployment.receipt
    return deployment.receipt.as_row()


# ------------------------------------------------------------------------------------------------------- the image


@pytest.mark.costly
def test_what_was_proved_stays_on_the_deployment(
    environment: Environment, consumers: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, consumers)
    digest = push(sandbox, deployment)

    said = finalize(deployment, consumers, digest)

    found = receipt(deployment)
    live = sandbox.client("ecr").get_repository_policy(
        repositoryName=image_proof.ImageLocation.of(deployment.image_ref).name
    )
    assert found["digest"] == deployment.image_digest == digest
    assert (found["platforms"], found["manifests"], found["layers"]) == (["linux/amd64"], 1, 1)
    assert found["policy"] == "sha256:" + hashlib.sha256(live["policyText"].encode()).hexdigest()
    assert set(found["pullers"]) == {CLUSTER}
    assert found["pullers"][CLUSTER]["how"] == "policy"
    assert any(f"Account {CLUSTER} can pull it." in sentence for sentence in said)
    assert said[-1] == f"Version {deployment.version} is deployed and current."


def test_without_a_digest_the_tag_is_resolved_and_pinned(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, ecr_configuration)
    digest = push(sandbox, deployment)

    finalize(deployment, ecr_configuration, "garbage")

    assert receipt(deployment)["digest"] == digest
    assert deployment.image_reference.endswith(f"@{digest}")


def test_an_image_that_was_never_pushed_is_not_promoted(
    environment: Environment, ecr_configuration: Configuration
) -> None:
    refusal = refused(deploying(environment, ecr_configuration), ecr_configuration)

    assert (refusal.code, refusal.retryable) == ("image_not_found", False)
    assert "Check that the image was pushed." in refusal.sentence


def test_an_image_that_was_pushed_elsewhere_is_not_promoted(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, ecr_configuration)
    sandbox.client("ecr").create_repository(repositoryName="trigger/elsewhere")
    digest = push(sandbox, deployment, repository="trigger/elsewhere")

    assert refused(deployment, ecr_configuration, digest).code == "image_not_found"


@pytest.mark.costly
def test_an_image_that_was_deleted_meanwhile_is_not_promoted(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, ecr_configuration)
    digest = push(sandbox, deployment)
    name = image_proof.ImageLocation.of(deployment.image_ref).name
    sandbox.client("ecr").batch_delete_image(repositoryName=name, imageIds=[{"imageDigest": digest}])

    assert refused(deployment, ecr_configuration, digest).code == "image_not_found"


@pytest.mark.costly
def test_an_image_that_ecr_shows_late_is_waited_for(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = deploying(environment, ecr_configuration)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            push(sandbox, deployment)

    monkeypatch.setattr("deployments.deploys.image_proof.time.sleep", sleep)

    finalize(deployment, ecr_configuration)

    assert len(pauses) == 2
    assert receipt(deployment)["digest"]


def test_a_deployment_whose_repository_row_was_deleted_is_proved_all_the_same(
    environment: Environment, ecr_configuration: Configuration
) -> None:
    deployment = deploying(environment, ecr_configuration)
    Repository.objects.all().delete()
    deployment.refresh_from_db()

    assert refused(deployment, ecr_configuration).code == "image_not_found"


@pytest.mark.costly
def test_a_layer_that_no_runtime_can_pull_is_refused_with_the_way_to_build_it(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, ecr_configuration)
    push(sandbox, deployment, images.build_docker_zstd())

    refusal = refused(deployment, ecr_configuration)

    assert refusal.code == "layer_unpullable"
    assert "oci-mediatypes=true" in refusal.sentence


def test_an_index_counts_when_one_of_its_platforms_is_wanted(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, ecr_configuration)
    push(sandbox, deployment, images.build_index())

    finalize(deployment, ecr_configuration)

    found = receipt(deployment)
    assert (found["platforms"], found["manifests"], found["layers"]) == (["linux/amd64", "linux/arm64"], 3, 2)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (images.build(platform="linux/arm64"), "linux/arm64"),
        (images.build_index(platforms=["linux/arm64", "windows/amd64"]), "linux/arm64, windows/amd64"),
    ],
)
def test_an_image_for_another_machine_is_refused(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox, image: images.Image, found: str
) -> None:
    deployment = deploying(environment, ecr_configuration)
    push(sandbox, deployment, image)

    refusal = refused(deployment, ecr_configuration)

    assert refusal.code == "platform_mismatch"
    assert f"is for {found}, and this server deploys for linux/amd64" in refusal.sentence


@pytest.mark.parametrize(
    ("wanted", "found", "fits"),
    [
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/amd64", "linux/x86_64", True),
        ("linux/arm/v7", "linux/arm", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/arm64", "linux/arm", False),
        ("linux/amd64", "unknown/unknown", False),
        ("linux/amd64", "no platform", False),
    ],
)
def test_platforms_are_compared_as_runtimes_do(wanted: str, found: str, fits: bool) -> None:
    assert image_proof._fits(image_proof._platform(wanted), found) is fits


# ---- Trees that ECR itself does not take, from a source of our own.


class Shelf:
    """A source that holds what it is told to."""

    def __init__(self, *contents: dict[str, Any] | str) -> None:
        texts = [each if isinstance(each, str) else json.dumps(each) for each in contents]
        self.held = {oci_registry.digest_of(text.encode()): text for text in texts}
        self.reads = 0

    def tagged(self, tag: str) -> tuple[str, str] | None:
        return next(iter(self.held.items()), None)

    def manifests(self, digests: Any) -> dict[str, str]:
        self.reads += 1
        return {digest: self.held[digest] for digest in digests if digest in self.held}

    def configuration(self, digest: str) -> bytes | None:
        return self.held[digest].encode() if digest in self.held else None

    def not_active(self, *, digest: str = "", tag: str = "") -> Refusal | None:
        return None


CONFIGURATION = {"os": "linux", "architecture": "amd64"}


def digest(content: dict[str, Any]) -> str:
    return oci_registry.digest_of(json.dumps(content).encode())


def image(**more: Any) -> dict[str, Any]:
    return {"config": {"digest": digest(CONFIGURATION)}, "layers": [{"digest": "sha256:1"}], **more}


def index(*children: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"manifests": [{"digest": digest(child), **more} for child in children]}


def read(*contents: dict[str, Any] | str) -> image_proof.Tree:
    place = image_proof.ImageLocation(host="registry", name="a", tag="t")
    return image_proof._read(Shelf(*contents, CONFIGURATION), place, None, ["linux/amd64"])


def test_a_tree_is_read_to_its_depth_and_what_is_shared_is_read_once() -> None:
    leaf, other = image(), image(mediaType="other")
    inner = index(leaf, other)

    tree = read(index(inner, leaf), inner, leaf, other)

    assert (tree.manifests, tree.platforms) == (5, ["linux/amd64"])
    assert tree.sample == (digest(leaf), "sha256:1")


def test_an_attestation_is_read_and_is_no_platform() -> None:
    leaf, provenance = image(), image(mediaType="in-toto")
    root = {
        "manifests": [
            {"digest": digest(leaf), "platform": CONFIGURATION},
            {"digest": digest(provenance), "platform": {"os": "unknown", "architecture": "unknown"}},
        ]
    }

    assert read(root, leaf, provenance).platforms == ["linux/amd64"]


def deep(levels: int) -> list[dict[str, Any]]:
    chain = [image()]
    for _ in range(levels):
        chain.insert(0, index(chain[0]))
    return chain


@pytest.mark.parametrize(
    ("contents", "code"),
    [
        ([index(image())], "image_incomplete"),
        ([image(config={"digest": "sha256:gone"})], "image_incomplete"),
        (deep(3), "manifest_unreadable"),
        ([{"manifests": [{"digest": f"sha256:{number}"} for number in range(200)]}], "manifest_unreadable"),
        (["<html>"], "manifest_unreadable"),
        (["[" * 100_000], "manifest_unreadable"),
        ([{"manifests": 7}], "manifest_unreadable"),
        ([{}], "manifest_unreadable"),
        ([{"layers": []}], "manifest_unreadable"),
        ([{"config": {"digest": digest({"a": 1})}}, {"a": 1}], "platform_mismatch"),
        ([{"config": {"digest": oci_registry.digest_of(b"[]")}}, "[]"], "manifest_unreadable"),
    ],
)
def test_what_is_no_whole_image_is_refused(contents: list[dict[str, Any] | str], code: str) -> None:
    with pytest.raises(Refusal) as caught:
        read(*contents)

    assert caught.value.code == code
    assert not caught.value.retryable


def test_a_tree_of_the_greatest_depth_is_an_image() -> None:
    assert read(*deep(2)).manifests == 3


@pytest.mark.costly
def test_a_wide_index_is_asked_for_in_parts(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, ecr_configuration)
    platforms = [f"linux/arm{number}" for number in range(30)] + ["linux/amd64"]
    push(sandbox, deployment, images.build_index(platforms=platforms))
    sandbox.reset_calls()

    finalize(deployment, ecr_configuration)

    assert receipt(deployment)["manifests"] == 32
    assert sandbox.calls()["ecr:BatchGetImage"] == 3


# ------------------------------------------------------------------------------------------------------- the pulls


@pytest.mark.parametrize("lacking", ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"])
def test_a_consumer_account_that_cannot_pull_is_named_with_the_permission_it_lacks(
    environment: Environment, configure: Configure, sandbox: Sandbox, lacking: str
) -> None:
    half = policy(actions=[action for action in PULL if action != lacking])
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=half)
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)

    refusal = refused(deployment, configuration)

    assert (refusal.code, refusal.retryable) == ("consumer_cannot_pull", False)
    assert f"Account {CLUSTER} cannot pull" in refusal.sentence
    assert f"Allow {lacking} to this account" in refusal.sentence


@pytest.mark.costly
def test_a_policy_that_was_changed_since_the_deploy_began_is_corrected_first(
    environment: Environment, consumers: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, consumers)
    push(sandbox, deployment)
    name = image_proof.ImageLocation.of(deployment.image_ref).name
    sandbox.client("ecr").set_repository_policy(repositoryName=name, policyText=policy(principal=OWNER))

    finalize(deployment, consumers)

    assert receipt(deployment)["pullers"][CLUSTER]["pull"] == "yes"


def test_a_policy_that_is_only_observed_is_left_and_the_image_is_refused(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_POLICY_MODE="observe")
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)
    name = image_proof.ImageLocation.of(deployment.image_ref).name
    sandbox.client("ecr").delete_repository_policy(repositoryName=name)

    assert refused(deployment, configuration).code == "consumer_cannot_pull"


@pytest.mark.costly
def test_a_grant_to_one_role_of_the_account_is_promoted_and_the_receipt_says_that_it_depends(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    probe(sandbox)
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=policy(principal=PROBE))
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)

    said = finalize(deployment, configuration)

    puller = receipt(deployment)["pullers"][CLUSTER]
    assert (puller["pull"], puller["how"]) == ("depends", "policy")
    assert "but names only role probe" in puller["words"]
    assert not any("can pull" in sentence for sentence in said)


@pytest.mark.costly
def test_what_a_condition_decides_is_promoted_and_refused_only_where_a_trial_finds_it_so(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    conditional = policy(Condition=ORGANISATION)
    probe(sandbox)
    trying = consuming(
        configure,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=conditional,
        DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS=PROBE,
    )
    deployment = deploying(environment, trying)
    push(sandbox, deployment)
    # The sandbox's accounts are in no organisation, so the condition does not hold, and the trial tells.
    assert refused(deployment, trying).code == "trial_pull_refused"
    met = policy(Condition={"StringEquals": {"aws:PrincipalType": "AssumedRole"}})
    trying = consuming(
        configure, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=met, DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS=PROBE
    )
    name = image_proof.ImageLocation.of(deployment.image_ref).name
    sandbox.client("ecr").set_repository_policy(repositoryName=name, policyText=met)
    finalize(deployment, trying)
    assert receipt(deployment)["pullers"][CLUSTER]["how"] == "trial"


def test_without_a_probe_role_a_condition_is_promoted_and_the_receipt_names_it(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    conditional = policy(Condition=ORGANISATION, Sid="OurOrganisation")
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=conditional)
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)

    said = finalize(deployment, configuration)

    puller = receipt(deployment)["pullers"][CLUSTER]
    assert (puller["pull"], puller["layer"], puller["statement"]) == ("depends", "repository policy", "OurOrganisation")
    assert "aws:PrincipalOrgID" in puller["words"]
    assert "were not seen" in puller["basis"]
    assert any("It depends whether" in sentence for sentence in said)


@pytest.mark.costly
def test_a_trial_pull_is_the_two_calls_of_a_pull_as_the_probe_role(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    probe(sandbox)
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS=PROBE)
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)

    said = finalize(deployment, configuration)

    tried = [entry["operation"] for entry in sandbox.journal() if "assumed-role/probe" in (entry["caller"] or "")]
    assert tried == ["BatchGetImage", "GetDownloadUrlForLayer"]
    puller = receipt(deployment)["pullers"][CLUSTER]
    assert (puller["pull"], puller["how"], puller["roles"]) == ("yes", "trial", [PROBE])
    assert any(PROBE in sentence for sentence in said)


@pytest.mark.costly
def test_a_trial_pull_of_what_is_current_says_which_role_cannot_pull_and_why(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    probe(sandbox)
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS=PROBE)
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)
    finalize(deployment, configuration)
    deployment.refresh_from_db()
    assert deployment.repository is not None
    [target] = targets.configured(configuration)
    assert image_proof.try_pulls(deployment.repository, target) == ""

    sandbox.client("ecr").delete_repository_policy(repositoryName=deployment.repository.name)

    words = image_proof.try_pulls(deployment.repository, target)
    assert PROBE in words
    assert "ecr:BatchGetImage" in words


@pytest.mark.costly
@pytest.mark.parametrize("lacking", ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"])
def test_a_role_that_its_own_account_does_not_let_pull_is_named_with_the_permission(
    environment: Environment, configure: Configure, sandbox: Sandbox, lacking: str
) -> None:
    probe(sandbox, may=None)
    allowed = [action for action in PULL if action != lacking]
    sandbox.client("iam", "cluster").put_role_policy(
        RoleName="probe",
        PolicyName="half",
        PolicyDocument=json.dumps({"Statement": [{"Effect": "Allow", "Action": allowed, "Resource": "*"}]}),
    )
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS=PROBE)
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)

    refusal = refused(deployment, configuration)

    assert refusal.code == "trial_pull_refused"
    name = image_proof.ImageLocation.of(deployment.image_ref).name
    for part in (CLUSTER, PROBE, f"Allow {lacking} on arn:aws:ecr:us-east-1:{OWNER}:repository/{name}"):
        assert part in refusal.sentence


def registry_policy(sandbox: Sandbox, effect: str = "Deny", **more: Any) -> None:
    statement = {"Effect": effect, "Principal": {"AWS": CLUSTER}, "Action": "ecr:*", "Resource": "*", **more}
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sandbox.client("ecr").put_registry_policy(policyText=text)


def test_a_deny_of_the_probe_role_in_the_registry_policy_is_found_by_the_trial(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    probe(sandbox)
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS=PROBE)
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)
    registry_policy(sandbox, Principal={"AWS": PROBE})

    refusal = refused(deployment, configuration)

    assert refusal.code == "trial_pull_refused"
    assert "explicit deny" in refusal.sentence


@pytest.mark.parametrize("action", ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:*"])
def test_a_deny_in_the_registry_policy_refuses_the_promotion_without_a_probe_role(
    environment: Environment, consumers: Configuration, sandbox: Sandbox, action: str
) -> None:
    deployment = deploying(environment, consumers)
    push(sandbox, deployment)
    registry_policy(sandbox, Action=action, Sid="NoCluster")

    refusal = refused(deployment, consumers)

    assert (refusal.code, refusal.retryable) == ("registry_policy_denies", False)
    assert "NoCluster of the registry policy denies it" in refusal.sentence


def test_a_registry_policy_that_allows_the_pull_is_enough(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=policy(principal=OWNER))
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)
    registry_policy(sandbox, "Allow", Sid="Everywhere")

    finalize(deployment, configuration)

    puller = receipt(deployment)["pullers"][CLUSTER]
    assert (puller["pull"], puller["layer"], puller["statement"]) == ("yes", "registry policy", "Everywhere")


def test_a_registry_policy_that_cannot_be_read_promotes_and_the_receipt_says_so(
    environment: Environment, consumers: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, consumers)
    push(sandbox, deployment)
    registry_policy(sandbox)
    sandbox.fault("error", "ecr:GetRegistryPolicy", code="AccessDeniedException")

    said = finalize(deployment, consumers)

    puller = receipt(deployment)["pullers"][CLUSTER]
    assert puller["pull"] == "unknown"
    assert puller["words"].startswith("By the repository policy, ")
    assert puller["words"].endswith("The registry policy was not read.")
    assert not any(f"Account {CLUSTER} can pull it" in sentence for sentence in said)
    assert any("The registry policy was not read." in sentence for sentence in said)


def test_a_probe_role_that_cannot_be_assumed_leaves_it_undecided_and_refused(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS=PROBE)
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)

    refusal = refused(deployment, configuration)

    assert (refusal.code, refusal.retryable) == ("image_undecided", False)
    assert "Check DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS" in refusal.sentence


def test_the_registrys_own_account_needs_no_policy(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=f"{OWNER},{CLUSTER}")
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)

    finalize(deployment, configuration)

    assert receipt(deployment)["pullers"][OWNER]["pull"] == "yes"


# ------------------------------------------------------------------------------------------------ not found out


@pytest.mark.costly
@pytest.mark.parametrize(
    ("operation", "code", "retryable"),
    [
        ("ecr:BatchGetImage", "ThrottlingException", True),
        ("ecr:BatchGetImage", "AccessDeniedException", False),
        ("ecr:GetDownloadUrlForLayer", "ServerException", True),
        ("ecr:GetRepositoryPolicy", "AccessDeniedException", False),
    ],
)
def test_what_aws_does_not_tell_is_refused_with_the_reason_and_the_switch(
    environment: Environment,
    consumers: Configuration,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    code: str,
    retryable: bool,
) -> None:
    once = ecr.ecr_of(consumers.registry("MANAGED"), HOST)  # botocore's patience is not what this is about
    assert once is not None
    door = replace(once, attempts=1)
    monkeypatch.setattr(image_proof, "ecr_of", lambda registry, host: door)
    deployment = deploying(environment, consumers)
    push(sandbox, deployment)
    sandbox.fault("error", operation, code=code)

    refusal = refused(deployment, consumers)

    assert (refusal.code, refusal.retryable) == ("image_undecided", retryable)
    assert code in refusal.sentence
    assert "DEPLOY_IMAGE_VERIFICATION_ENABLED=0" in refusal.sentence


def test_switched_off_it_goes_on_and_says_that_nothing_was_proved(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = consuming(configure, DEPLOY_IMAGE_VERIFICATION_ENABLED="0")
    deployment = deploying(environment, configuration)
    sandbox.reset_calls()

    finalize(deployment, configuration)

    assert sandbox.calls() == {}
    assert "switched off" in receipt(deployment)["unproved"]


# ------------------------------------------------------------------------------------------------ promoting later


def promoted_later(environment: Environment, configuration: Configuration, sandbox: Sandbox) -> Deployment:
    """A proved deployment that is not current yet."""
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)
    finalize(deployment, configuration, skip=True)
    return deployment


def promote(deployment: Deployment, configuration: Configuration) -> Deployment:
    return promotions.promote(
        environment=deployment.environment,
        version=str(deployment.version),
        by="",
        configuration=configuration,
        trail=TRAIL,
    )


@pytest.mark.costly
def test_a_version_whose_image_has_gone_since_is_not_promoted(
    environment: Environment, consumers: Configuration, sandbox: Sandbox
) -> None:
    deployment = promoted_later(environment, consumers, sandbox)
    name = image_proof.ImageLocation.of(deployment.image_ref).name
    sandbox.client("ecr").batch_delete_image(repositoryName=name, imageIds=[{"imageDigest": deployment.image_digest}])

    with pytest.raises(Refusal) as caught:
        promote(deployment, consumers)

    assert caught.value.code == "image_not_found"
    assert not Promotion.objects.exists()


def test_a_promotion_renews_the_receipt(environment: Environment, consumers: Configuration, sandbox: Sandbox) -> None:
    deployment = promoted_later(environment, consumers, sandbox)
    assert deployment.receipt
    before = deployment.receipt.as_row()

    promote(deployment, consumers)

    after = receipt(deployment)
    assert after["at"] > before["at"]
    assert after["digest"] == before["digest"]


def test_what_was_proved_once_can_be_promoted_on_a_day_when_aws_does_not_answer(
    environment: Environment, consumers: Configuration, sandbox: Sandbox
) -> None:
    deployment = promoted_later(environment, consumers, sandbox)
    assert deployment.receipt
    before = deployment.receipt.as_row()
    sandbox.fault("error", "ecr:*", code="AccessDeniedException")

    promote(deployment, consumers)

    assert receipt(deployment) == before


def test_what_was_never_proved_is_not_promoted_on_such_a_day(
    environment: Environment, configure: Configure, consumers: Configuration, sandbox: Sandbox
) -> None:
    unproved = promoted_later(environment, consuming(configure, DEPLOY_IMAGE_VERIFICATION_ENABLED="0"), sandbox)
    sandbox.fault("error", "ecr:*", code="AccessDeniedException")

    with pytest.raises(Refusal) as caught:
        promote(unproved, consumers)

    assert caught.value.code == "image_undecided"
    assert not Promotion.objects.exists()


# ------------------------------------------------------------------------------------------------ other registries


class Registry(http.server.ThreadingHTTPServer):
    """A registry v2 that holds one image and is as strict as a test says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.image = images.build()
        self.login = "open"  # basic, bearer
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.seen: list[tuple[str, str | None]] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        registry, sent = self.server, self.headers.get("Authorization")
        registry.seen.append((self.path, sent))
        for part, answer in registry.answers.items():
            if part in self.path:
                return self._answer(*answer)
        basic = "Basic " + base64.b64encode(b"robot:right").decode()
        if self.path.startswith("/token"):
            if registry.login == "bearer" and sent == basic:
                return self._answer(200, {}, b'{"token": "granted"}')
            return self._answer(401, {}, b"")
        challenge = {"basic": 'Basic realm="x"', "bearer": f'Bearer realm="http://{registry.host}/token",service="s"'}
        wanted = {"open": sent, "basic": basic, "bearer": "Bearer granted"}[registry.login]
        if sent != wanted:
            return self._answer(401, {"WWW-Authenticate": challenge[registry.login]}, b"")
        if self.path == "/v2/":
            return self._answer(200, {"Docker-Distribution-Api-Version": "registry/2.0"}, b"{}")
        held = {each.digest: each.content for each in (registry.image.manifest, *registry.image.blobs)}
        reference = self.path.rpartition("/")[2]
        if ":" not in reference:  # a tag
            reference = registry.image.digest
        return self._answer(200, {}, held[reference]) if reference in held else self._answer(404, {}, b"{}")

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def prove(host: str, *, digest: str | None = None, password: str | None = "right") -> dict[str, Any]:  # noqa: S107
    config = RegistryConfig(host=host, namespace="trigger", username=password and "robot", password=password)
    image_ref = f"{host}/trigger/shop:v1"
    return image_proof.prove(image_ref=image_ref, digest=digest, platforms=["linux/amd64"], config=config).as_row()


def test_a_deploy_to_another_registry_is_proved_there(
    environment: Environment, configure: Configure, registry: Registry
) -> None:
    configuration = configure(DEPLOY_REGISTRY_HOST=registry.host)
    deployment = deploying(environment, configuration)

    finalize(deployment, configuration, registry.image.digest)

    assert receipt(deployment)["platforms"] == ["linux/amd64"]


@pytest.mark.parametrize("login", ["open", "basic", "bearer"])
def test_another_registry_is_logged_in_to_as_it_asks(registry: Registry, login: str) -> None:
    registry.login = login

    found = prove(registry.host)

    assert found["digest"] == registry.image.digest
    assert "unproved" not in found
    sent = {authorization for path, authorization in registry.seen if "manifests" in path}
    assert ("Bearer granted" in sent) == (login == "bearer")


@pytest.mark.parametrize(
    ("part", "answer", "code", "retryable"),
    [
        ("manifests", (404, {}, b"{}"), "image_not_found", False),
        ("manifests", (500, {}, b""), "image_undecided", True),
        ("manifests", (429, {}, b""), "image_undecided", True),
        ("manifests", (403, {}, b""), "image_undecided", False),
        ("manifests", (200, {}, b"<html>"), "manifest_unreadable", False),
        ("manifests", (200, {}, b" " * (oci_registry.MAX_BYTES + 1)), "image_undecided", True),
        ("manifests", (302, {"Location": "https://["}, b""), "image_undecided", True),
        ("manifests", (302, {"Location": "file:///etc/passwd"}, b""), "image_undecided", True),
        ("manifests", (302, {"Location": "/v2/trigger/shop/manifests/v1"}, b""), "image_undecided", True),
        ("blobs", (404, {}, b""), "image_incomplete", False),
        ("blobs", (200, {}, b"something else"), "image_incomplete", False),
    ],
)
def test_the_answer_of_another_registry_is_reported(
    registry: Registry, part: str, answer: tuple[int, dict[str, str], bytes], code: str, retryable: bool
) -> None:
    registry.answers[part] = answer

    with pytest.raises(Refusal) as caught:
        prove(registry.host)

    assert (caught.value.code, caught.value.retryable) == (code, retryable)


@pytest.mark.parametrize("login", ["basic", "bearer"])
def test_a_wrong_password_is_refused_and_not_shown(registry: Registry, login: str) -> None:
    registry.login = login

    with pytest.raises(Refusal, match="DEPLOY_REGISTRY_PASSWORD") as caught:
        prove(registry.host, password="canary")

    assert "canary" not in caught.value.sentence


@pytest.mark.parametrize(
    "answer",
    [
        (404, {}, b""),
        (403, {"Server": "AirTunes"}, b""),
        (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>"),
    ],
)
def test_a_program_that_is_no_registry_proves_nothing_and_refuses_nothing(
    registry: Registry, answer: tuple[int, dict[str, str], bytes]
) -> None:
    registry.answers["/v2/"] = answer

    found = prove(registry.host, digest=registry.image.digest)

    assert registry.host in found["unproved"]
    assert found["digest"] == registry.image.digest


def test_a_registry_that_does_not_answer_refuses_nothing(environment: Environment, configure: Configure) -> None:
    configuration = configure(DEPLOY_REGISTRY_HOST="127.0.0.1:1")
    deployment = deploying(environment, configuration)

    said = finalize(deployment, configuration)

    assert "127.0.0.1:1 does not answer" in receipt(deployment)["unproved"]
    assert any("The image was not checked" in sentence for sentence in said)


def test_a_private_registry_whose_password_only_the_developer_has_refuses_nothing(registry: Registry) -> None:
    registry.login = "bearer"

    assert "requires a log-in" in prove(registry.host, password=None)["unproved"]


def test_a_redirect_to_another_host_is_followed_without_the_log_in(registry: Registry) -> None:
    registry.login = "basic"
    [configuration, _] = registry.image.blobs
    with Registry() as storage:
        threading.Thread(target=storage.serve_forever, kwargs={"poll_interval": 0.01}).start()
        storage.answers["/storage"] = (200, {}, configuration.content)
        registry.answers["blobs"] = (307, {"Location": f"http://{storage.host}/storage"}, b"")

        found = prove(registry.host)

        storage.shutdown()
    assert found["platforms"] == ["linux/amd64"]
    assert storage.seen == [("/storage", None)]


def test_a_log_in_is_never_sent_without_tls_beyond_this_machine() -> None:
    assert oci_registry.Registry(host="registry.example.com")._base == "https://registry.example.com/v2/"
    assert oci_registry.Registry(host="127.0.0.1.example.com")._base == "https://127.0.0.1.example.com/v2/"
    assert oci_registry.Registry(host="localhost:5000")._base == "http://localhost:5000/v2/"
    with pytest.raises(oci_registry._Unanswered, match="without TLS"):
        oci_registry._get("http://registry.example.com/v2/", {}, plain=False)


def test_an_answer_that_drips_is_given_up(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.answers["manifests"] = (200, {}, b"{}")
    registry.answers["/v2/"] = (401, {}, b"")  # nothing to read there, so it is the manifest that drips
    monkeypatch.setattr(oci_registry, "TOTAL_SECONDS", -1)

    with pytest.raises(Refusal, match="takes too long"):
        prove(registry.host)


# ---- The guards


def test_what_the_storage_hands_out_is_believed_only_with_the_right_digest(
    environment: Environment, consumers: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = deploying(environment, consumers)
    push(sandbox, deployment)
    other = json.dumps({"os": "linux", "architecture": "amd64", "made by": "somebody else"}).encode()
    monkeypatch.setattr("deployments.deploys.image_proof.oci_registry.download", lambda url: other)

    refusal = refused(deployment, consumers)

    assert (refusal.code, refusal.retryable) == ("image_undecided", True)
    assert "The image's configuration" in refusal.sentence


@pytest.mark.costly
@pytest.mark.parametrize("lost", ["manifest", "layer"])
def test_a_trial_pull_that_gets_nothing_is_no_pull(
    environment: Environment, configure: Configure, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    probe(sandbox)
    configuration = consuming(configure, DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS=PROBE)
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)
    answers: dict[str, object] = {"manifests": {}} if lost == "manifest" else {"download_url": None}
    answered = image_proof._answers

    def meanwhile(*arguments: Any) -> Any:  # it was read as a whole, and is gone before the trial
        for name, answer in answers.items():
            monkeypatch.setattr(ecr.Ecr, name, lambda *_, answer=answer, **__: answer)
        return answered(*arguments)

    monkeypatch.setattr(image_proof, "_answers", meanwhile)

    assert refused(deployment, configuration).code == "image_not_found"


def test_an_image_has_a_hundred_manifests_in_all_and_not_on_each_level() -> None:
    leaves = [image(mediaType=str(number)) for number in range(99)]
    inner = [index(leaf, mediaType="x") for leaf in leaves[:49]]

    assert read(index(*inner), *inner, *leaves[:49]).manifests == 99
    with pytest.raises(Refusal) as wide:
        read(index(*leaves, image()), *leaves, image())
    deep = [index(leaf) for leaf in leaves[:60]]
    with pytest.raises(Refusal) as both:
        read(index(*deep), *deep, *leaves[:60])

    assert (wide.value.code, both.value.code) == ("manifest_unreadable", "manifest_unreadable")
    assert "too many parts" in both.value.sentence
