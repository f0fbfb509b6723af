"""Targets: the ECR registries of the configuration, and which of them a repository belongs to.

A repository belongs to a target by account, region and namespace. The host does not decide, because one registry has
several hosts (FIPS, dual-stack).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from django.db.models import Q

from deployments.aws.ecr import Ecr
from deployments.aws.partitions import registry_of
from deployments.config import Configuration, RegistryConfig
from deployments.images import EcrRegistry
from deployments.models import Repository
from deployments.reconcile import policy_versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A configured registry that is ECR."""

    config: RegistryConfig
    registry: EcrRegistry

    @property
    def writer(self) -> str:
        """The identity that writes repository policies (`RegistryConfig.writer`)."""
        return self.config.writer(self.registry.account)

    @property
    def rows(self) -> Q:
        """Condition for the rows that belong to the target: its account, its region, its namespace."""
        registry = self.registry
        return Q(account=registry.account, region=registry.region, name__startswith=f"{self.config.namespace}/")

    def names(self, repository: str) -> bool:
        """Whether a repository name of this registry is under the target's namespace."""
        return repository.startswith(f"{self.config.namespace}/")

    def has(self, row: Repository) -> bool:
        """Whether a row's repository belongs to the target; as `rows`."""
        place = (self.registry.account, self.registry.region)
        return place == (row.account, row.region) and self.names(row.name)

    def ecr(self, **hooks: Any) -> Ecr:
        """The `Ecr` for the target's registry. `hooks`: further fields of `Ecr`."""
        return Ecr.of(self.config, self.registry, **hooks)


def configured(configuration: Configuration) -> list[Target]:
    """The targets of the configuration, without duplicates."""
    found: dict[tuple[str, str], Target] = {}
    for config in configuration.require().registries:
        registry = registry_of(config.host)
        if registry is not None:
            found.setdefault((config.host, config.namespace), Target(config=config, registry=registry))
    return list(found.values())


def find(configuration: Configuration, *, account: str, region: str, name: str) -> Target | None:
    """The target that a repository belongs to; None if no configured registry and namespace matches."""
    for target in configured(configuration):
        if (target.registry.account, target.registry.region) == (account, region) and target.names(name):
            return target
    return None


def of(row: Repository, configuration: Configuration) -> Target | None:
    """The target that a row's repository belongs to, with the default policy of this repository; None as in `find`."""
    target = find(configuration, account=row.account, region=row.region, name=row.name)
    return None if target is None else replace(target, config=policy_versions.for_repository(target.config, row))


def of_image(image_ref: str, deployment_type: str, configuration: Configuration) -> RegistryConfig | None:
    """The configured registry that an image ref names by its host; None where the configuration names another one.

    An ECR registry has several hosts. Where both configured registries match, the deployment's type decides.
    """
    host = image_ref.partition("/")[0]
    wanted = registry_of(host)
    for config in (configuration.registry(deployment_type or None), *configuration.registries):
        if config.host == host or (wanted is not None and registry_of(config.host) == wanted):
            return config
    return None


def rows(configuration: Configuration) -> Q:
    """Condition for the rows that belong to any target. A sweep can check only these."""
    every = Q(pk__in=[])
    for target in configured(configuration):
        every |= target.rows
    return every
