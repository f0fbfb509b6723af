"""boto3's own variables: what keeps boto3 from making a client is found at the start, and shown without the values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments import config
from deployments.aws import clients
from deployments.aws.clients import setup_error
from deployments.aws.ecr import Ecr
from deployments.aws.partitions import partitions, registry_of
from deployments.checks import boto3_can_be_set_up
from deployments.errors import RegistryError
from tests.support.constants import HOST, OWNER


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    clients.forget_clients()


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("AWS_PROFILE", "AWS_PROFILE=canary", "AWS_PROFILE: there is no such profile"),
        ("AWS_ENDPOINT_URL", "user:canary@host", "AWS_ENDPOINT_URL: it, or"),
        ("AWS_ENDPOINT_URL_STS", '"http://user:canary@host"', "AWS_ENDPOINT_URL: it, or"),
        ("AWS_DEFAULTS_MODE", "canary", "AWS_…: boto3 cannot read one"),
    ],
)
def test_a_variable_with_which_boto3_makes_no_client_stops_the_start_without_its_value(
    variable: str, value: str, named: str, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.CONFIGURATION = config.load({"DEPLOY_REGISTRY_HOST": HOST})
    assert list(boto3_can_be_set_up()) == []

    monkeypatch.setenv(variable, value)

    [error] = boto3_can_be_set_up()
    assert (error.id, error.is_serious()) == ("deployments.E004", True)
    assert error.msg.startswith(named)
    assert "canary" not in f"{error.msg} {error.hint}"
    settings.CONFIGURATION = config.load({})  # no ECR, so boto3 is not used
    assert list(boto3_can_be_set_up()) == []


def test_the_table_of_partitions_is_read_without_the_files_of_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "canary")

    assert "us-east-1" in {region for partition in partitions.__wrapped__() for region in partition.regions}
    assert setup_error("us-east-1") is not None


def test_an_endpoint_that_is_not_a_url_ends_a_call_with_our_error_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "user:canary@host")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    configuration = config.load({"DEPLOY_REGISTRY_HOST": HOST})
    registry = registry_of(HOST)
    assert registry is not None

    with pytest.raises(RegistryError) as caught:
        list(Ecr.of(configuration.v4, registry).pages())

    assert "AWS_ENDPOINT_URL" in str(caught.value)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert OWNER in str(caught.value)
