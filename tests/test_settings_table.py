"""One row for each setting: what uses it, what documents it, and what its value may look like."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from hypothesis import given
from hypothesis import strategies as st

from deployments import config, notations
from deployments.config import Configuration, RegistryConfig
from deployments.notations import Malformed
from deployments.settings_table import BY_NAME, SETTINGS

ROOT = Path(__file__).resolve().parent.parent
HOST = "111111111111.dkr.ecr.us-east-1.amazonaws.com"
#: Variables of other programs, and of this program's processes among each other; no operator sets them.
NOT_SETTINGS = {"ENV_FILE", "DJANGO_SETTINGS_MODULE", "PROMETHEUS_MULTIPROC_DIR", "WORKER_PULSE_PIPE"}
POLICY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::222222222222:root"},
                "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            }
        ],
    }
)


def said_by(**environment: str) -> dict[str, str]:
    """Variable → its problems, or else its warnings."""
    loaded = config.load(environment)
    said: dict[str, str] = {}
    for each in loaded.problems or loaded.warnings:
        said[each.variable] = f"{said.get(each.variable, '')}{each.message} {each.hint} "
    return said


# ----------------------------------------------------------------------------------------------------- rows and code


def test_the_fields_of_the_configuration_are_those_of_the_rows() -> None:
    of_registry = {each.field for each in SETTINGS if each.of_registry}
    others = {each.field for each in SETTINGS if each.field and not each.of_registry}

    by_generation = {"active_version", "new_version", "versions", "written_grants"}
    names = {each.name for each in dataclasses.fields(RegistryConfig)}
    assert names - {"malformed", "from_v4"} - by_generation == of_registry
    made = {"plain", "v4", "problems", "warnings", "activation", "malformed"}
    assert {each.name for each in dataclasses.fields(Configuration)} - made == others
    assert len(BY_NAME) == len(SETTINGS)
    assert all(each.of_registry for each in SETTINGS if each.mirrored)


@pytest.mark.costly
def test_every_setting_is_read_by_the_program() -> None:
    """Except the one that is accepted and warned of."""
    read = {
        node.attr
        for folder in ("deployments", "registry_admin")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("config.py", "settings_table.py", "notations.py", "service_urls.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }

    assert [each.name for each in SETTINGS if each.field not in read] == ["DEPLOY_QUEUE_TIMEOUT_MS"]
    assert "DEPLOY_QUEUE_TIMEOUT_MS" in said_by(DEPLOY_QUEUE_TIMEOUT_MS="1")


def test_no_variable_is_read_that_has_no_row() -> None:
    files = [*(ROOT / "registry_admin").glob("*.py"), ROOT / "manage.py", ROOT / "gunicorn.conf.py"]
    read = {
        name
        for path in files
        for name in re.findall(r"""environ(?:\.get\(|\.setdefault\(|\[)["']([A-Z0-9_]+)""", path.read_text())
    }

    assert "ENV_FILE" in read
    assert read - NOT_SETTINGS - set(BY_NAME) == set()


def test_every_default_is_written_as_its_row_reads_it() -> None:
    for setting in SETTINGS:
        if setting.default:
            setting.notation.parse(setting.default, lambda message, hint: pytest.fail(message))


def test_every_example_can_be_used_as_it_stands(settings: Any) -> None:
    given = {each.name: each.example.strip("'") for each in SETTINGS if each.example}

    loaded = config.load(given)
    assert loaded.problems == ()
    assert [warning.variable for warning in loaded.warnings] == ["DEPLOY_QUEUE_TIMEOUT_MS"]
    assert ids(settings, **given) == ["W001"]


@pytest.mark.parametrize(
    ("value", "origin"),
    [
        ("https://Deploy.Example.com/", "https://deploy.example.com"),
        ("https://deploy.example.com:443", "https://deploy.example.com"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://deploy.example.com:80", "https://deploy.example.com:80"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://[1::80]", "http://[1::80]"),
    ],
)
def test_an_origin_is_the_text_that_a_browser_sends(value: str, origin: str) -> None:
    assert config.load({"APP_ORIGIN": value}).app_origin == origin


def test_a_setting_that_holds_a_secret_is_in_no_representation() -> None:
    found = [
        each.field
        for each in SETTINGS
        for owner in (Configuration, RegistryConfig)
        for field in dataclasses.fields(owner)
        if each.secret and field.name == each.field and field.repr
    ]

    assert found == []


# ---------------------------------------------------------------------------------------- values as operators give them


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DATABASE_URL", '"postgres://user:SECRETPW@db:5432/app"', "Take the quotes off"),
        ("DATABASE_URL", "host=db user=u password=SECRETPW dbname=app", "key=value"),
        ("DATABASE_URL", "postgres://user:p?ss@db:5432/app", "Percent-encode"),
        ("DATABASE_URL", "postgres://user:p/ss@db:5432/app", "Percent-encode"),
        ("DATABASE_URL", "DATABASE_URL=postgres://user:SECRETPW@db:5432/app", "the name of the variable"),
        ("DATABASE_URL", "\ufeffpostgres://user:SECRETPW@db:5432/app", "byte order mark"),
        ("DATABASE_URL", "postgres://user:SECRETPW@db:5432/app\nDEBUG=1", "line break"),
        ("DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY", f"'{POLICY}'", "Take the quotes off"),
        ("DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY", json.dumps(POLICY), 'write each \\" inside the value as "'),
        ("DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY", "'{\"rules\": []}'", "Take the quotes off"),
        ("DEPLOY_REGISTRY_ECR_TAGS", '"team=platform,managed-by=registry-admin"', "Take the quotes off"),
        ("DEPLOY_REGISTRY_ECR_TAGS", "cost center (eu)=a&b;c", "cost center"),
        ("DEPLOY_REGISTRY_ECR_TAGS", "'team=platform' # tags", "Take the quotes off"),
        ("DEPLOY_REGISTRY_ECR_TAGS", '{ team = "platform" }', "begins as JSON and is not JSON"),
        ("DEPLOY_REGISTRY_ECR_TAGS", '[{"Key": "team"}, {"Value": "x"}]', "not a tag"),
        ("DEPLOY_REGISTRY_ECR_TAGS", "Key=team,Value=platform,env=prod", "shorthand"),
        ("DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID", '"ext-1"', "Take the quotes off"),
        ("DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID", "ext 1", "not an external id"),
        ("DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS", '["222222222222"]', "separated by commas"),
        ("DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS", "222222222222 333333333333", "separated by commas"),
        ("DEPLOY_REGISTRY_HOST", f'"{HOST}"', "Take the quotes off"),
        ("DEPLOY_REGISTRY_HOST", "registry.example.com:99999", "not a registry host"),
        ("DEPLOY_REGISTRY_HOST", "registry.example.com:0", "not a registry host"),
        ("DEPLOY_REGISTRY_HOST", "registry..example.com", "not a registry host"),
        ("DEPLOY_REGISTRY_HOST", "user:pw@registry.example.com", "not a registry host"),
        ("DEPLOY_REGISTRY_HOST", "300.1.1.1", "not a registry host"),
        ("DEPLOY_REGISTRY_HOST", "[::g]:5000", "not a registry host"),
        ("DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN", "arn:aws:iam::111111111111:role/x/", "not the ARN of a role"),
        ("DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN", "arn:aws:iam::111111111111:role//x", "not the ARN of a role"),
        ("DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS", f"arn:aws:iam::111111111111:role/{'x' * 65}", "not the ARN of a role"),
        ("DEPLOY_REGISTRY_ECR_KMS_KEY", "alias/a b", "KMS key"),
        ("DEPLOY_REGISTRY_ECR_KMS_KEY", "-" * 36, "KMS key"),
        ("DEPLOY_REGISTRY_ECR_KMS_KEY", "arn:aws:kms:us-east-1:111111111111:key/alias/x", "KMS key"),
        ("DEPLOY_TIMEOUT_MS", "'480000'", "Take the quotes off"),
        ("DEPLOY_TIMEOUT_MS", "480000 # 8 minutes", "whole number"),
        ("APP_ORIGIN", "`https://deploy.example.com`", "Take the quotes off"),
        ("EMAIL_URL", "'smtp://mail'", "Take the quotes off"),
        ("RECONCILE_EVENTS_QUEUE_URL", "https://u:p@sqs.us-east-1.amazonaws.com/111111111111/q", "SQS queue"),
    ],
)  # fmt: skip
def test_a_value_in_a_wrong_form_stops_the_start_with_what_to_write_instead(name: str, value: str, words: str) -> None:
    given = {"DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN": "arn:aws:iam::111111111111:role/push", name: value}
    loaded = config.load(given)

    said = said_by(**given)
    assert list(said) == [name]
    assert words in said[name]
    assert "SECRETPW" not in said[name]
    assert loaded.problems


def test_a_wrong_external_id_that_no_role_uses_is_a_warning_as_it_always_worked() -> None:
    name, role = "DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID", "arn:aws:iam::111111111111:role/x"
    given = {name: '"ext-1"'}

    loaded = config.load(given)
    assert loaded.problems == ()
    [warning] = loaded.warnings
    assert "begins with a quote mark" in warning.message
    for setting in ("ECR_ASSUME_ROLE_ARN", "ECR_PUSH_ROLE_ARN", "ECR_PROBE_ROLE_ARNS"):
        assert config.load({**given, f"DEPLOY_REGISTRY_{setting}": role}).problems
    assert config.load({**given, "V4_DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN": role}).problems


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("METRICS_KEY", '"kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"', "Take the quotes off"),
        ("METRICS_KEY", "'abc' # k", "Take the quotes off"),
        ("METRICS_KEY", "abc # k", "comment"),
        ("SECRET_KEY", '"a key that was always in quotes"', "Take the quotes off"),
        ("ENCRYPTION_KEY", f'"{"k" * 40}"', "Take the quotes off"),
        ("DEPLOY_REGISTRY_PASSWORD", '"s3"', "Take the quotes off"),
        ("DEPLOY_REGISTRY_USERNAME", "DEPLOY_REGISTRY_USERNAME=me", "the name of the variable"),
        ("ALLOWED_HOSTS", '"deploy.example.com"', "Take the quotes off"),
        ("STATIC_ROOT", "'/var/static'", "Take the quotes off"),
        ("ALLOWED_HOSTS", "https://deploy.example.com", "without scheme"),
        ("ALLOWED_HOSTS", "deploy.example.com:8000", "without scheme"),
        ("ALLOWED_HOSTS", "a.example.com b.example.com", "separated by commas"),
        ("EMAIL_FROM", "'Registry Admin <a@example.com>'", "Take the quotes off"),
        ("DATABASE_URL", "postgres://user:pw@db:6432/app?pgbouncer=true", "pgbouncer"),
        ("DATABASE_URL", "postgres://user:pw@db:6432/app?connection_limit=10", "connection_limit"),
        ("DEPLOY_REGISTRY_ECR_TAGS", "team=platform env=prod", "separated by commas"),
        ("DEPLOY_REGISTRY_ECR_TAGS", "team: platform", "have an ="),
        ("DEPLOY_REGISTRY_HOST", "registry", "Give the port too"),
    ],
)
def test_a_suspicious_value_that_always_worked_is_used_with_a_warning(name: str, value: str, words: str) -> None:
    loaded = config.load({name: value})

    assert loaded.problems == ()
    said = said_by(**{name: value})
    assert list(said) == [name]
    assert words in said[name]
    field = BY_NAME[name].field
    found = getattr(loaded.plain if BY_NAME[name].of_registry else loaded, field)
    if BY_NAME[name].notation.any_text:
        assert found in (value, (value,))


def test_the_policy_of_the_example_works_as_it_stands_in_a_file_that_docker_reads() -> None:
    line = next(line for line in (ROOT / ".env.example").read_text().splitlines() if "REPOSITORY_POLICY={" in line)
    name, _, value = line.removeprefix("#").partition("=")

    assert said_by(**{name: value}) == {}


def test_a_variable_of_boto3_in_quotes_is_warned_of_without_its_value() -> None:
    said = said_by(AWS_SECRET_ACCESS_KEY='"SECRETPW"', AWS_REGION="'us-east-1'", AWS_PROFILE="production")

    assert sorted(said) == ["AWS_REGION", "AWS_SECRET_ACCESS_KEY"]
    assert "SECRETPW" not in str(said)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://postgres:postgres@localhost:5432/postgres?schema=public"),
        ("DEPLOY_REGISTRY_HOST", "[::1]:5000"),
        ("DEPLOY_REGISTRY_HOST", "10.0.0.1:65535"),
        ("EMAIL_FROM", '"Registry Admin" <a@example.com>'),
        ("ALLOWED_HOSTS", "*, .example.com,deploy_1, [::1],127.0.0.1"),
        ("DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS", "222222222222,\n333333333333"),
        ("DEPLOY_REGISTRY_ECR_TAGS", "team=platform,\nenv=prod"),
        ("ENCRYPTION_KEY", f"{'a' * 32},\n{'b' * 32}"),
        ("METRICS_KEY", "a'b\"c#d"),
        ("DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY", f"\n {POLICY}\n"),
        ("DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY", json.dumps(json.loads(POLICY), indent=1)),
    ],
)
def test_a_value_in_a_right_form_is_used_without_a_word(name: str, value: str) -> None:
    assert said_by(**{name: value}) == {}


@pytest.mark.parametrize(
    "value",
    [
        "team=platform,env=prod",
        " team = platform , env=prod,",
        "Key=team,Value=platform Key=env,Value=prod",
        "Key=team, Value=platform, Key=env, Value=prod",
        "key=team,value=platform\nkey=env,value=prod",
        '[{"Key": "team", "Value": "platform"}, {"Key": "env", "Value": "prod"}]',
        '[{"key": "team", "value": "platform"}, {"key": "env", "value": "prod"}]',
        '{"team": "platform", "env": "prod"}',
    ],
)
def test_tags_are_read_in_our_notation_and_in_those_of_the_aws_cli_and_of_terraform(value: str) -> None:
    assert dict(notations.read_tags(value)) == {"team": "platform", "env": "prod"}


tag_texts = st.text(st.characters(categories=["L", "N"], include_characters="_.:/+-@ "), min_size=1, max_size=8).map(
    str.strip
)


@pytest.mark.costly
@given(tags=st.dictionaries(tag_texts.filter(bool), tag_texts, max_size=6))
def test_the_same_tags_are_read_from_every_notation(tags: dict[str, str]) -> None:
    ours = ",".join(f"{key}={value}" for key, value in tags.items())
    shorthand = " ".join(f"Key={key},Value={value}" for key, value in tags.items())
    listed = json.dumps([{"Key": key, "Value": value} for key, value in tags.items()])

    assert dict(notations.read_tags(ours)) == tags
    assert dict(notations.read_tags(shorthand)) == tags
    assert dict(notations.read_tags(listed)) == tags
    assert dict(notations.read_tags(json.dumps(tags))) == tags


@pytest.mark.costly
@given(text=st.text(max_size=60), name=st.sampled_from(sorted(BY_NAME)))
def test_any_text_is_read_or_refused_and_nothing_else_happens(text: str, name: str) -> None:
    config.load({name: text})


# ---------------------------------------------------------------------------------------------------- files and .env


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POLICY.encode("utf-16"), "UTF-16"),
        (POLICY.encode("utf-16-be"), "control character"),
        (b"\xff\xff{}", "not UTF-8"),
        (POLICY.encode("utf-8-sig"), "byte order mark"),
    ],
)
def test_a_file_in_another_encoding_is_named_with_what_to_do(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_bytes(content)

    said = said_by(DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY_FILE=str(file))

    [(variable, sentence)] = said.items()
    assert variable.startswith("DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY")
    assert words in sentence
    assert "UTF-8" in sentence


def test_a_file_that_cannot_be_read_is_named_and_not_taken_for_unset(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, "x" * 5000, f'"{tmp_path}"'):
        loaded = config.load({"SECRET_KEY_FILE": str(path)})

        assert [problem.variable for problem in loaded.problems] == ["SECRET_KEY_FILE"]
        assert str(tmp_path) not in str(loaded.problems[0])
        assert loaded.problem_of("SECRET_KEY")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"A=1\nSECRET=x\0y\n", "Line 2"),
        ("A=1\n".encode("utf-16"), "UTF-16"),
        ("A=1\n".encode("utf-8-sig"), "byte order mark"),
        (b"A=\xff\n", "not UTF-8"),
        (b"A=1\nB =2\n", "Line 2"),
    ],
)
def test_an_env_file_that_cannot_be_read_is_ignored_as_a_whole(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(content)

    values, [problem] = config.read_env_file(file, named=True)

    assert values == {}
    assert words in f"{problem.message} {problem.hint}"


def test_the_path_of_an_env_file_in_quotes_is_reported_as_such(tmp_path: Path) -> None:
    _, [problem] = config.read_env_file(Path(f'"{tmp_path}"'), named=True)

    assert "Take the quotes off" in problem.hint


def test_an_env_file_is_read_as_it_always_was(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text(
        '# a comment\n\nA=1\nexport B=\'two \\" $x\'\nC="th\\"ree\\n\\\\"\n'
        "D=a=b # c\nE='x' # kept\nA=2\nF=\nG='\nH= x \r\n"
    )

    assert config.read_env_file(file, named=True) == (
        {
            "A": "2",
            "B": 'two \\" $x',
            "C": 'th"ree\\n\\',
            "D": "a=b # c",
            "E": "'x' # kept",
            "F": "",
            "G": "'",
            "H": " x ",
        },
        (),
    )


# --------------------------------------------------------------------------------------------------- findings of checks


def ids(settings: Any, **environment: str) -> list[str]:
    settings.CONFIGURATION = config.load(environment)
    found = [message.id for message in run_checks(tags=["configuration", "policy"])]
    return sorted(str(each).removeprefix("deployments.") for each in found)


@pytest.mark.parametrize(
    "environment",
    [
        {"DEPLOY_REGISTRY_HOST": f"https://{HOST}", "DEPLOY_REGISTRY_ECR_TAGS": "a=b"},
        {"DEPLOY_REGISTRY_HOST": HOST, "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY_FILE": "/none"},
        {
            "DEPLOY_REGISTRY_HOST": HOST,
            "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
            "DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS": '["222222222222"]',
        },
        {
            "DEPLOY_REGISTRY_HOST": HOST,
            "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
            "V4_DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": "{",
        },
        {
            "DEPLOY_REGISTRY_HOST": HOST,
            "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY.replace("arn:aws:iam::222222222222:root", "*"),
            "DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY": "yes, please",
        },
        {"DEPLOY_REGISTRY_HOST": HOST, "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": "'{}'"},
    ],
    ids=["host", "policy file", "accounts", "v4 policy", "public", "policy"],
)
def test_nothing_is_said_that_follows_from_a_malformed_setting(environment: dict[str, str], settings: Any) -> None:
    assert ids(settings, **environment) == ["E001"]


def test_after_a_malformed_env_file_nothing_is_said_to_be_unset(settings: Any, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("wrong line\n")
    values, found = config.read_env_file(tmp_path / "env", named=True)
    settings.CONFIGURATION = config.load({**values, "DEPLOY_REGISTRY_HOST": HOST}, found=found)

    assert [message.id for message in run_checks(tags=["configuration", "policy"])] == ["deployments.E001"]


def test_a_malformed_encryption_key_is_not_said_to_be_unset(settings: Any) -> None:
    settings.CONFIGURATION = config.load({"ENCRYPTION_KEY": "short"})

    found = {message.id for message in run_checks(include_deployment_checks=True)}
    assert "deployments.E001" in found
    assert "deployments.W003" not in found


def test_a_malformed_setting_of_one_registry_hides_no_finding_about_the_other(settings: Any) -> None:
    found = ids(settings, DEPLOY_REGISTRY_HOST=HOST, V4_DEPLOY_REGISTRY_HOST="https://x")

    assert found == ["E001", "W004"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("602401143452.dkr.ecr-fips.eu-west-2.amazonaws.com", ["W004", "W006"]),
        ("602401143452.dkr-ecr-fips.eu-west-2.on.aws", ["W004", "W006"]),
        ("111111111111.dkr.ecr-fips.us-east-2.amazonaws.com", ["W004"]),
        ("111111111111.dkr-ecr-fips.us-gov-west-1.on.aws", ["W004"]),
        ("ecr-public.aws.com", ["E002"]),
        ("ecr-public.us-east-1.amazonaws.com", ["E002"]),
        ("public.ecr.aws", ["E002"]),
        ("ecr.us-east-1.amazonaws.com", ["E002"]),
        ("api.ecr.us-east-1.amazonaws.com", ["E002"]),
        ("ecr.us-east-1.api.aws", ["E002"]),
        ("111111111111.dkr.ecr.aws-global.amazonaws.com", ["E002"]),
        ("ecr.example.com", []),
        ("registry.internal.us-east-1.elb.amazonaws.com", []),
    ],
)
def test_hosts_of_aws_that_hold_no_private_repositories_are_reported(
    host: str, expected: list[str], settings: Any
) -> None:
    assert ids(settings, DEPLOY_REGISTRY_HOST=host) == expected


def test_a_malformed_mail_server_has_its_own_check(settings: Any) -> None:
    assert ids(settings, EMAIL_URL="mail.example.com") == ["E015"]


def test_the_parser_of_tags_raises_nothing_but_its_own_error() -> None:
    for text in ("[" * 100_000, "{", "[1]", '[{"Key": 1}]', '"x"', "{}", "[]"):
        try:
            notations.read_tags(text)
        except Malformed:
            pass
