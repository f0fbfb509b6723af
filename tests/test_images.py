"""Names: hosts, versions, refs, ids."""

import pytest
from django.contrib.admin.utils import unquote
from hypothesis import given
from hypothesis import strategies as st

from deployments import images
from deployments.aws import partitions


@pytest.mark.parametrize(
    ("host", "account", "region", "partition"),
    [
        ("111111111111.dkr.ecr.us-east-1.amazonaws.com", "111111111111", "us-east-1", "aws"),
        ("111111111111.dkr.ecr-fips.us-east-1.amazonaws.com", "111111111111", "us-east-1", "aws"),
        ("011111111111.dkr.ecr.cn-north-1.amazonaws.com.cn", "011111111111", "cn-north-1", "aws-cn"),
        ("111111111111.dkr.ecr.us-gov-west-1.amazonaws.com", "111111111111", "us-gov-west-1", "aws-us-gov"),
        ("111111111111.dkr.ecr.us-iso-east-1.c2s.ic.gov", "111111111111", "us-iso-east-1", "aws-iso"),
        ("111111111111.dkr.ecr.us-isob-east-1.sc2s.sgov.gov", "111111111111", "us-isob-east-1", "aws-iso-b"),
        ("111111111111.dkr.ecr.eusc-de-east-1.amazonaws.eu", "111111111111", "eusc-de-east-1", "aws-eusc"),
        ("111111111111.dkr-ecr.eu-west-1.on.aws", "111111111111", "eu-west-1", "aws"),
        ("111111111111.dkr-ecr-fips.us-west-2.on.aws", "111111111111", "us-west-2", "aws"),
        ("111111111111.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn", "111111111111", "cn-north-1", "aws-cn"),
    ],
)
def test_an_ecr_host_of_every_partition_is_recognised(host: str, account: str, region: str, partition: str) -> None:
    registry = partitions.registry_of(host)

    assert registry is not None
    assert (registry.account, registry.region, registry.partition) == (account, region, partition)


@pytest.mark.parametrize(
    "host",
    [
        "localhost:5000",
        "registry.example.com",
        "1111.dkr.ecr.us-east-1.amazonaws.com",
        "111111111111.dkr.ecr.nowhere.amazonaws.com",
        "111111111111.dkr.ecr.us-east-1.amazonaws.com.cn",
        "111111111111.dkr.ecr.cn-north-1.amazonaws.com",
        "111111111111.dkr-ecr.us-east-1.amazonaws.com",
        "111111111111.dkr.ecr.us-east-1.amazonaws.com.evil.example",
        "x111111111111.dkr.ecr.us-east-1.amazonaws.com",
        "public.ecr.aws",
    ],
)
def test_any_other_host_is_a_plain_registry(host: str) -> None:
    assert partitions.registry_of(host) is None


def test_a_region_that_is_newer_than_the_table_is_found_by_its_partitions_pattern() -> None:
    assert partitions.partition_of("eu-north-7") == "aws"
    assert partitions.partition_of("cn-south-9") == "aws-cn"


@pytest.mark.parametrize("region", ["", "nowhere", "aws-global", "us-east-1.evil", "US-EAST-1"])
def test_a_region_of_no_partition_is_refused(region: str) -> None:
    with pytest.raises(ValueError, match="not an AWS region"):
        partitions.partition_of(region)


def test_an_image_ref_reads_host_namespace_project_version_type_and_short_code() -> None:
    tag = images.tag(version="20261124.3", environment_type="PRODUCTION", short_code="abc12345")
    name = images.repository_name(namespace="trigger", project_ref="proj_x")

    assert images.image_ref(host="h.example", repository=name, tag=tag) == (
        "h.example/trigger/proj_x:20261124.3.production.abc12345"
    )


def test_the_tenth_version_of_a_day_is_newer_than_the_ninth() -> None:
    assert images.Version.parse("20261124.10") > images.Version.parse("20261124.9")
    assert images.Version.parse("20261125.1") > images.Version.parse("20261124.10")


@pytest.mark.costly
@given(st.text(max_size=20))
def test_a_text_is_a_version_or_a_value_error(text: str) -> None:
    try:
        version = images.Version.parse(text)
    except ValueError:
        return
    assert str(version) == text


def test_ids_and_keys_have_the_forms_that_the_cli_recognises() -> None:
    assert images.is_project_ref(images.new_project_ref())
    assert len(images.new_project_ref()) == 25
    assert images.new_user_token().startswith("tr_pat_")
    assert len(images.new_user_token()) == 47
    assert not set("0l") & set(images.new_user_token().removeprefix("tr_pat_"))
    assert images.new_environment_key("stg").startswith("tr_stg_")


@pytest.mark.costly
def test_no_id_is_misread_in_an_address_of_the_admin() -> None:
    ids = [images.new_id("deployment") for _ in range(3000)]

    assert [each for each in ids if unquote(each) != each] == []
    assert {len(each) for each in ids} == {len("deployment_") + 21}


@pytest.mark.parametrize(
    "ref", ["", "proj_", "proj_A", "abc", "proj_a/b", "proj_-a", "proj_a..b", "proj_" + "a" * 90, "proj_a-preview"]
)
def test_a_project_ref_that_cannot_end_a_repository_name_is_refused(ref: str) -> None:
    assert not images.is_project_ref(ref)


def test_the_repository_for_preview_is_of_the_project_whose_ref_it_has() -> None:
    name = images.repository_name(namespace="trigger/x", project_ref="proj_a", is_preview=True)

    assert name == "trigger/x/proj_a-preview"
    assert images.possible_refs(name, namespace="trigger/x") == ("proj_a-preview", "proj_a")
    assert images.possible_refs("trigger/x/proj_a", namespace="trigger/x") == ("proj_a",)


@pytest.mark.parametrize(
    "digest", [None, "", "sha256:abc", "sha256:" + "A" * 64, "md5:" + "a" * 64, "x sha256:" + "a" * 64]
)
def test_only_a_whole_sha256_digest_is_believed(digest: str | None) -> None:
    assert not images.is_digest(digest)
