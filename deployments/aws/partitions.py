"""The AWS partitions in botocore's data, the ECR registry that a host names, AWS's console. Makes no call to AWS."""

from __future__ import annotations

import functools

from botocore.loaders import create_loader

from deployments.images import EcrRegistry, Partition, parse_ecr_host

#: Partition → host of the AWS console, after the region and a dot; botocore's data do not have it. Sources: “AWS
#: Management Console endpoints and quotas” (AWS General Reference) and its pages for China, GovCloud and the European
#: Sovereign Cloud. AWS documents no console of the iso partitions in public, so they are not here.
_CONSOLES = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
    "aws-eusc": "console.amazonaws-eusc.eu",
}


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


def console_of(region: str) -> str:
    """The host of the AWS console of a region; empty where AWS documents none. Raises ValueError as `partition_of`."""
    console = _CONSOLES.get(partition_of(region))
    return f"{region}.{console}" if console else ""


@functools.lru_cache(maxsize=64)
def registry_of(host: str) -> EcrRegistry | None:
    """The ECR registry of this host name, or None. Knows FIPS and dual-stack hosts, in each partition."""
    return parse_ecr_host(host, partitions())
