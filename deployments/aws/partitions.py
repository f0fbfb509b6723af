"""The AWS partitions in botocore's data, and the ECR registry that a host names. Makes no call to AWS."""

from __future__ import annotations

import functools

from botocore.loaders import create_loader

from deployments.images import EcrRegistry, Partition, parse_ecr_host


@functools.cache
def partitions() -> tuple[Partition, ...]:
    """The AWS partitions in botocore's data.

    The hosts of ECR's dual-stack registries start their suffix with `on.`, the hosts of the partition's APIs with
    `api.` (AWS: “Making requests over IPv6”).
    """
    data = create_loader().load_data("partitions")
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


@functools.cache
def fips_regions() -> frozenset[str]:
    """The regions in which ECR has a FIPS endpoint, as far as botocore's data knows."""
    data = create_loader().load_data("endpoints")
    return frozenset(
        region
        for partition in data["partitions"]
        for region, endpoint in partition["services"].get("api.ecr", {}).get("endpoints", {}).items()
        if region in partition["regions"] and any("fips" in each["tags"] for each in endpoint.get("variants", ()))
    )


def partition_of(region: str) -> str:
    """The name of the region's partition, for example `aws-cn`. Raises ValueError if no partition has the region."""
    for partition in partitions():
        if partition.has(region):
            return partition.name
    raise ValueError(f"“{region[:40]}” is not an AWS region")


@functools.lru_cache(maxsize=64)
def registry_of(host: str) -> EcrRegistry | None:
    """The ECR registry of this host name, or None. Knows FIPS and dual-stack hosts, in each partition."""
    return parse_ecr_host(host, partitions())
