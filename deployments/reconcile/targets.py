"""TODO"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deployments.aws.ecr import Ecr
from deployments.aws.partitions import registry_of
from deployments.aws.values import Access
from deployments.config import Configuration, RegistryConfig
from deployments.images import EcrRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A configured registry that is ECR."""

    config: RegistryConfig
    registry: EcrRegistry

    def holds(self, name: str) -> bool:
        return name.startswith(f"{self.config.namespace}/")


def targets(configuration: Configuration) -> list[Target]:
    """The ECR registries of the configuration, each host and namespace once."""
    found: dict[tuple[str, str], Target] = {}
    for config in configuration.require().registries:
        registry = registry_of(config.host)
        if registry is not None:
            found.setdefault((config.host, config.namespace), Target(config=config, registry=registry))
    return list(found.values())


def reach(target: Target, **hooks: Any) -> Ecr:
    """The door to a target's registry."""
    access = Access(role_arn=target.config.assume_role_arn, external_id=target.config.assume_role_external_id)
    return Ecr(registry=target.registry, access=access, **hooks)
