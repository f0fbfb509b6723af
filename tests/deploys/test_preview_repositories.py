"""With DEPLOY_REGISTRY_ECR_PREVIEW_REPOSITORIES, a preview build cannot reach what production's build reads or runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.utils import timezone

from deployments import config
from deployments.access.audit import Trail
from deployments.api import branches
from deployments.config import Configuration
from deployments.deploys import lifecycle, versions
from deployments.models import Deployment, Environment, EnvironmentType, ProcessRole, Project, Repository
from deployments.reconcile import generation
from sandbox import images
from sandbox.control import Sandbox
from tests.support.constants import HOST, POLICY, TRAIL
from tests.support.sweeps import sweep_all

ON = {"DEPLOY_REGISTRY_ECR_PREVIEW_REPOSITORIES": "1"}
SETTINGS = {"DEPLOY_REGISTRY_HOST": HOST, "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY}
Configure = Callable[..., Configuration]


@pytest.fixture
def branch(project: Project, sandbox: Sandbox) -> Environment:
    """A preview branch, as of a pull request."""
    preview = Environment.objects.create(project=project, slug="preview", type=EnvironmentType.PREVIEW)
    return branches.upsert(preview, "feature", {})[0]


def deploy(environment: Environment, configuration: Configuration) -> Deployment:
    return lifecycle.create_deployment(
        environment=environment, configuration=configuration, trail=TRAIL, content_hash="abc", type="MANAGED"
    ).deployment


def name_of(deployment: Deployment) -> str:
    return deployment.image_ref.rpartition(":")[0].partition("/")[2]


@pytest.mark.costly
def test_a_preview_log_in_reaches_neither_productions_cache_nor_its_tags(
    environment: Environment, branch: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = configure(**SETTINGS, **ON)
    production, preview = deploy(environment, configuration), deploy(branch, configuration)
    assert name_of(preview) == f"{name_of(production)}-preview"
    issued = lifecycle.registry_credentials(deployment=preview, configuration=configuration)

    def push(name: str, tag: str) -> None:
        image = images.build()
        images.push(image, sandbox.url, issued.username, issued.password, name, tag, registry=HOST)

    push(name_of(preview), preview.image_ref.rpartition(":")[2])
    push(name_of(preview), "cache")
    for tag in ("cache", production.image_ref.rpartition(":")[2], "20991231.1.production.abcdefgh"):
        with pytest.raises(images.RegistryError) as refused:
            push(name_of(production), tag)
        assert refused.value.status == 403
    assert not sandbox.client("ecr").list_images(repositoryName=name_of(production))["imageIds"]


@pytest.mark.costly
def test_the_repository_for_preview_has_the_policy_and_is_swept_as_one_of_the_project(
    environment: Environment, branch: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = configure(**SETTINGS, **ON)
    name = name_of(deploy(branch, configuration))
    row = Repository.objects.get(name=name)
    assert (row.project, row.status) == (environment.project, "in_sync")
    sandbox.client("ecr").delete_repository_policy(repositoryName=name)

    sweep_all(configuration)

    assert sandbox.client("ecr").get_repository_policy(repositoryName=name)["policyText"]
    Repository.objects.all().delete()
    sweep_all(configuration)
    assert Repository.objects.get(name=name).project == environment.project


def test_without_the_setting_and_outside_of_ecr_all_environments_share_one_repository(
    environment: Environment, branch: Environment, configure: Configure
) -> None:
    for variables in (SETTINGS, {"DEPLOY_REGISTRY_HOST": "registry.example.com:5000", **ON}):
        configuration = configure(**variables)
        assert name_of(deploy(branch, configuration)) == name_of(deploy(environment, configuration))


def test_a_project_whose_ref_ends_with_preview_shares_its_repository_with_no_other_project(
    environment: Environment, branch: Environment, configure: Configure
) -> None:
    Project.objects.create(name="Older", ref=f"{environment.project.ref}-preview")

    assert name_of(deploy(branch, configure(**SETTINGS, **ON))) == f"trigger/{environment.project.ref}"


def test_version_counters_are_raised_by_the_tags_of_the_repository_for_preview(
    environment: Environment, branch: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = configure(**SETTINGS, **ON)
    name = name_of(deploy(branch, configuration))
    tag = f"{timezone.now():%Y%m%d}.7.preview.abcdefgh"
    images.push(images.build(), sandbox.url, *sandbox.login(), name, tag, registry=HOST)

    versions.learn(configuration=configuration, trail=Trail.of_command("test"))

    branch.refresh_from_db()
    assert branch.version_number == 7


@pytest.mark.django_db
def test_all_processes_follow_the_setting_of_the_configuration_that_counts() -> None:
    without, on = config.load(SETTINGS), config.load(SETTINGS | ON)
    older = generation.register(without, role=ProcessRole.WEB)
    newer = generation.register(on, role=ProcessRole.WEB)
    generation.activate(row=newer, trail=Trail.of_command("test"), reason="a test")

    assert generation.in_force(without).preview_repositories
    assert "DEPLOY_REGISTRY_ECR_PREVIEW_REPOSITORIES: True instead of none." in generation.differences(older, newer)
    assert "preview" not in older.content, "a version without the setting writes the same content"
