"""Repositories in sync under a first version, a changed setting, and a roll-out that is worked off in the test."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from deployments.config import Configuration
from deployments.models import PolicyVersion, ProcessRole, Project, Repository
from deployments.reconcile import generation, repositories, rollouts, sweeps, targets

PULL = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
ONE, TWO, THREE = "222222222222", "333333333333", "444444444444"


def allowing(*accounts: str, more: Iterable[dict[str, Any]] = ()) -> str:
    """A policy by which these accounts can pull."""
    principals = [f"arn:aws:iam::{account}:root" for account in accounts]
    statement = {"Sid": "Ours", "Effect": "Allow", "Principal": {"AWS": principals}, "Action": PULL}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement, *more]})


def started_with(configuration: Configuration, policy: str | None, **values: Any) -> Configuration:
    """The settings of a process that was started with this policy, registered as a web process registers them."""
    consumers = values.pop("consumers", (ONE, TWO))
    registry = replace(configuration.plain, default_repository_policy=policy, consumer_accounts=consumers)
    own = replace(
        configuration, plain=registry, v4=registry, **{"staged": True, "watch": timedelta(0), "canaries": (), **values}
    )
    generation.register(own, role=ProcessRole.WEB)
    return own


def repositories_in_sync(configuration: Configuration, project: Project, number: int) -> list[Repository]:
    """So many repositories of one project, each set up by a deploy."""
    return [deploy(configuration, project, f"trigger/{project.ref}-{index:03}") for index in range(number)]


def deploy(own: Configuration, project: Project, name: str) -> Repository:
    """The part of a deploy that sets up its repository."""
    configuration = generation.in_force(own)
    return repositories.ensure_repository(
        config=configuration.plain,
        registry=targets.configured(configuration)[0].registry,
        name=name,
        project=project,
        desired_digest=configuration.desired_digest,
        freshness=timedelta(minutes=5),
        enforce=configuration.enforce,
        activation=configuration.activation,
    )


def written_long_ago() -> None:
    """From now on, a repository that ECR does not find is missing. Shortly after a write, ECR would be asked again."""
    Repository.objects.update(written_at=None)


def newest() -> PolicyVersion:
    return PolicyVersion.objects.order_by("-number")[0]


def work_off(own: Configuration, *, steps: int = 200, **options: Any) -> PolicyVersion:
    """Do what a worker does until nothing more can be done. Returns the newest version."""
    for _ in range(steps):
        if not sweeps.work(configuration=own, seconds=30) and not rollouts.advance(configuration=own, **options):
            return newest()
    raise AssertionError(f"{newest()} still moves: {newest().state}")
