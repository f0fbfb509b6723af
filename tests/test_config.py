"""The environment becomes one frozen configuration, or a complaint that helps."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from deployments import config
from deployments.config import Configuration, ConfigurationError
from deployments.settings_table import DEFAULT_LIFECYCLE_POLICY, SETTINGS

POLICY = json.dumps({"Version": "2012-10-17", "Statement": []})
HOST = "111111111111.dkr.ecr.us-east-1.amazonaws.com"


def problems(**environment: str) -> str:
    return "\n".join(str(problem) for problem in config.load(environment).problems)


def test_the_queue_timeout_of_trigger_devs_server_is_accepted_and_says_that_it_does_nothing() -> None:
    loaded = config.load({"DEPLOY_QUEUE_TIMEOUT_MS": "900000"})

    assert loaded.problems == ()
    [warning] = loaded.warnings
    assert warning.variable == "DEPLOY_QUEUE_TIMEOUT_MS"
    assert "not used" in warning.message
    assert config.load({}).warnings == ()


def test_an_empty_environment_is_a_whole_configuration() -> None:
    configuration = config.load({})

    assert configuration.problems == ()
    assert configuration.v4 == configuration.plain
    assert (configuration.v4.host, configuration.v4.namespace) == ("localhost:5000", "trigger")
    assert configuration.image_platform == "linux/amd64"
    assert configuration.image_verification
    assert not configuration.refuse_v3
    assert not configuration.refuse_unbound_logins
    assert configuration.freshness.total_seconds() == 60


def test_empty_is_the_same_as_unset() -> None:
    assert config.load({setting.name: " " for setting in SETTINGS}) == config.load({})


def test_the_v4_set_falls_back_to_the_plain_one_variable_by_variable() -> None:
    configuration = config.load(
        {
            "DEPLOY_REGISTRY_HOST": HOST,
            "DEPLOY_REGISTRY_NAMESPACE": "plain",
            "DEPLOY_REGISTRY_ECR_TAGS": "team=a",
            "V4_DEPLOY_REGISTRY_NAMESPACE": "four",
            "V4_DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
        }
    )

    assert configuration.problems == ()
    assert (configuration.v4.host, configuration.v4.namespace) == (HOST, "four")
    assert configuration.v4.tags == (("team", "a"),)
    assert configuration.v4.default_repository_policy == POLICY
    assert configuration.plain.default_repository_policy is None


def test_a_managed_deploy_uses_the_v4_set_and_one_without_a_type_the_plain_one() -> None:
    configuration = config.load({"V4_DEPLOY_REGISTRY_NAMESPACE": "four"})

    assert configuration.registry("MANAGED").namespace == "four"
    assert configuration.registry(None).namespace == "trigger"


def test_two_sets_that_name_one_repository_must_agree_about_it() -> None:
    said = problems(V4_DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY)

    assert "same host and namespace" in said
    assert "policy" in said


def test_two_sets_may_reach_one_repository_with_different_credentials() -> None:
    said = problems(
        DEPLOY_REGISTRY_HOST=HOST, V4_DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN="arn:aws:iam::111111111111:role/four"
    )

    assert said == ""


def test_tags_are_trimmed_and_an_empty_key_is_skipped_with_a_warning() -> None:
    configuration = config.load({"DEPLOY_REGISTRY_ECR_TAGS": " team = platform , bare ,, =lost, x=a=b ,"})

    assert configuration.problems == ()
    assert dict(configuration.v4.tags) == {"team": "platform", "bare": "", "x": "a=b"}
    assert [warning.variable for warning in configuration.warnings] == ["DEPLOY_REGISTRY_ECR_TAGS"]


def test_a_policy_that_is_not_json_is_named_with_the_place_and_an_example_but_not_shown() -> None:
    secret = '{"Version": "2012-10-17",\n "Statement": [nearly-a-secret]}'

    said = problems(DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=secret)

    assert "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY" in said
    assert "line 2, column 16" in said
    assert "For example" in said
    assert "nearly-a-secret" not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEPLOY_REGISTRY_HOST", "https://registry.example.com/x"),
        ("DEPLOY_REGISTRY_NAMESPACE", "Upper"),
        ("DEPLOY_REGISTRY_NAMESPACE", "a//b"),
        ("DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN", "registry-admin"),
        ("DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY", "[]"),
        ("DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY", '{"a":' * 100_000),
        ("DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY", "{}"),
        ("DEPLOY_REGISTRY_ECR_TAGS", "aws:own=1"),
        ("DEPLOY_TIMEOUT_MS", "soon"),
        ("DEPLOY_TIMEOUT_MS", "٣٠٠٠"),
        ("RECONCILE_FRESHNESS_SECONDS", "-1"),
        ("DEPLOY_IMAGE_VERIFICATION_ENABLED", "perhaps"),
        ("DEPLOY_IMAGE_PLATFORM", "linux amd64"),
        ("APP_ORIGIN", "deploy.example.com"),
        ("APP_ORIGIN", "https://deploy.example.com/prefix"),
        ("APP_ORIGIN", "http://[abc"),
        ("APP_ORIGIN", "http://host:notaport"),
        ("APP_ORIGIN", "http://host:99999"),
        ("RECONCILE_INTERVAL_MINUTES", "40000"),
        ("RECONCILE_FRESHNESS_SECONDS", "999999999999"),
        ("LOG_LEVEL", "banana"),
        ("DEBUG", "maybe"),
        ("DEPLOY_REGISTRY_ECR_KMS_KEY", "not a key!"),
        ("DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY", '{"x": "' + "a" * 100 + '"}'),
    ],
)
def test_a_malformed_value_is_named_with_an_example_and_nothing_runs_on_it(name: str, value: str) -> None:
    configuration = config.load({name: value})

    assert [problem.variable for problem in configuration.problems] == [name]
    assert configuration.problems[0].hint
    with pytest.raises(ConfigurationError, match=name):
        configuration.registry("MANAGED")


def test_a_complaint_about_a_v4_variable_names_that_variable() -> None:
    assert problems(V4_DEPLOY_REGISTRY_NAMESPACE="Upper").startswith("V4_DEPLOY_REGISTRY_NAMESPACE")


def test_secrets_are_in_no_representation() -> None:
    configuration = config.load(
        {
            "DEPLOY_REGISTRY_PASSWORD": "canary-password",
            "DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID": "canary-external",
        }
    )

    assert "canary" not in repr(configuration)


def digest_of(**environment: str) -> str:
    configuration: Configuration = config.load(environment)
    return configuration.desired_digest


def test_the_desired_digest_follows_what_decides_how_a_repository_should_be_and_nothing_else() -> None:
    assert digest_of() == digest_of(DEPLOY_REGISTRY_PASSWORD="x", DEPLOY_TIMEOUT_MS="9000")
    assert digest_of() != digest_of(DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY)
    assert digest_of() != digest_of(DEPLOY_REGISTRY_ECR_TAGS="a=b")
    assert digest_of(DEPLOY_REGISTRY_ECR_TAGS="a=b,c=d") == digest_of(DEPLOY_REGISTRY_ECR_TAGS="c=d,a=b")


def test_a_host_is_the_same_in_any_case() -> None:
    assert config.load({"DEPLOY_REGISTRY_HOST": HOST.upper()}).v4.host == HOST


@pytest.mark.parametrize(
    "text",
    [
        "DEPLOY REGISTRY_PASSWORD=canary",
        "EXTERNAL_ID: canary",
        'POLICY={"canary":\n  1}',
        " NAME=canary",
        "\ufeffNAME=canary",
    ],
)
def test_a_line_of_the_env_file_that_cannot_be_read_is_reported_by_its_number_alone(text: str, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text(f"# fine\nGOOD=1\n{text}\n")
    if text.startswith("\ufeff"):
        file.write_text(text)

    [problem] = config.read_env_file(file, named=False)[1]

    assert "was ignored" in problem.message
    assert "canary" not in str(problem)


def test_an_env_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    assert config.read_env_file(tmp_path / "none", named=False) == ({}, ())
    assert "cannot be read" in str(config.read_env_file(tmp_path / "none", named=True))
    assert config.read_env_file(Path("/dev/null"), named=True) == ({}, ())


def test_a_misspelt_setting_is_reported_with_the_setting_that_was_meant() -> None:
    configuration = config.load(
        {"DEPLOY_REGISTRY_ECR_DEFAULT_REPO_POLICY": "{}", "DEPLOY_REGISTRY_PASSWORD_FILE": "/x"}
    )

    [warning] = configuration.warnings
    assert warning.variable == "DEPLOY_REGISTRY_ECR_DEFAULT_REPO_POLICY"
    assert "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY" in warning.hint


def test_observing_and_enforcing_are_two_desired_states() -> None:
    # Else a worker that was started to enforce goes on enforcing after the operator switched to observe.
    assert digest_of() == digest_of(DEPLOY_REGISTRY_ECR_POLICY_MODE="enforce")
    assert digest_of() != digest_of(DEPLOY_REGISTRY_ECR_POLICY_MODE="observe")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEPLOY_REGISTRY_HOST", HOST),
        ("DEPLOY_REGISTRY_NAMESPACE", "other"),
        ("DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY", DEFAULT_LIFECYCLE_POLICY.replace("3 days", "three days")),
        ("DEPLOY_REGISTRY_ECR_KMS_KEY", "alias/registry"),
    ],
)
def test_every_part_of_the_desired_state_is_in_its_digest(name: str, value: str) -> None:
    assert digest_of(**{name: value}) != digest_of()
    assert digest_of(**{f"V4_{name}": value}) not in (digest_of(), digest_of(**{name: value}))


def test_the_defaults_that_the_settings_are_documented_with_are_the_ones_that_count() -> None:
    documented = {setting.name: setting.default for setting in SETTINGS if setting.default}

    assert config.load(documented) == config.load({})


def test_the_defaults_are_these() -> None:
    configuration = config.load({})

    assert configuration.deploy_timeout == timedelta(minutes=8)
    assert configuration.reconcile_interval == timedelta(minutes=10)
    assert configuration.calls_per_second == 20
    assert configuration.enforce
    assert not configuration.allow_public_policy
    assert not configuration.notify_allow_private
    assert not configuration.debug
    assert configuration.trusted_proxies == 0
    assert configuration.encryption_keys == ()


BASE = "DEPLOY_REGISTRY_ECR_BASE_REPOSITORIES"


def test_base_repositories_are_names_and_patterns_outside_the_namespace() -> None:
    configuration = config.load({BASE: "platform/*, docker-hub/library/node,platform/*", f"V4_{BASE}": "v4/base-*"})

    assert configuration.problems == ()
    assert configuration.plain.base_repositories == ("platform/*", "docker-hub/library/node")
    assert configuration.v4.base_repositories == ("v4/base-*",)


def test_a_base_repository_may_have_the_name_of_another_accounts_namespace() -> None:
    hosts = ("111111111111.dkr.ecr.us-east-1.amazonaws.com", "111111111111.dkr-ecr.us-east-1.on.aws")
    other = "222222222222.dkr.ecr.us-east-1.amazonaws.com"
    given = {"DEPLOY_REGISTRY_HOST": hosts[0], BASE: "platform/*", f"V4_{BASE}": "hub/*"}
    given["V4_DEPLOY_REGISTRY_NAMESPACE"] = "platform"

    assert BASE not in problems(**given, V4_DEPLOY_REGISTRY_HOST=other)
    assert BASE in problems(**given, V4_DEPLOY_REGISTRY_HOST=hosts[1])


@pytest.mark.parametrize(
    "name", ["platform/", "platform//node", "platform/../node", "platform-", "1/node", "node:22", "a" * 257, "é/node"]
)
def test_a_base_repository_without_a_star_is_a_name_that_a_repository_can_have(name: str) -> None:
    assert f"“{name[:40]}” is not the name or the pattern of a repository" in problems(**{BASE: name})
    assert BASE not in problems(**{BASE: "platform/os-x/node_2.1,a"})


@pytest.mark.parametrize(
    "pattern",
    ["*", "trigger/*", "trig*", "t*/base", "trigger/proj_abcdefghijklmnopqrst", "four/*", "*/base", "Platform/*"],
)
def test_a_base_repository_is_no_pattern_that_reaches_a_projects_images(pattern: str) -> None:
    found = problems(**{BASE: f"platform/node,{pattern}", "V4_DEPLOY_REGISTRY_NAMESPACE": "four"})

    assert f"“{pattern}”" in found
    assert BASE in found


@pytest.mark.parametrize("port", ["0", "8000", "9999", "59999", "64999", "65499", "65529", "65535"])
def test_the_web_process_listens_on_any_port(port: str) -> None:
    assert config.load({"BIND": f"127.0.0.1:{port}"}).require().bind == f"127.0.0.1:{port}"


@pytest.mark.parametrize("port", ["65536", "65540", "65600", "66000", "70000", "99999", "123456", "-1", ""])
def test_a_port_that_no_socket_has_is_refused_in_words(port: str) -> None:
    assert "BIND: The value is neither an address with a port (at most 65535)" in problems(BIND=f"127.0.0.1:{port}")
