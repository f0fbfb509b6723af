"""The partitions of AWS as botocore knows them, and which ECR registry a host names. Makes no call."""

from __future__ import annotations

import functools

import boto3

from deployments.images import EcrRegistry, Partition, parse_ecr_host


@functools.cache
def partitions() -> tuple[Partition, ...]:
    """The AWS partitions as botocore knows them. ECR's dual-stack registries live under `on.` where the APIs of
    the partition live under `api.` (AWS: “Making requests over IPv6”)."""
    data = boto3.session.Session()._session.get_component("data_loader").load_data("partitions")
    return tuple(
        Partition(
            name=entry["id"],
            regions=frozenset(entry["regions"]),
            region_pattern=entry["regionRegex"],
            dns_suffix=entry["outputs"]["dnsSuffix"],
            dual_stack_suffix="on." + entry["outputs"]["dualStackDnsSuffix"].removeprefix("api."),
        )
        for entry in data["partitions"]
    )


def partition_of(region: str) -> str:
    """The partition that a region lies in. Raises ValueError for a region of none."""
    for partition in partitions():
        if not region.endswith("-global") and partition.has(region):
            return partition.name
    raise ValueError(f"“{region[:40]}” is not an AWS region")


@functools.lru_cache(maxsize=64)
def registry_of(host: str) -> EcrRegistry | None:
    """The ECR registry that a host names, in any partition, FIPS and dual-stack included; else None."""
    return parse_ecr_host(host, partitions())
