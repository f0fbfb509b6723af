"""The other artefacts of deploy/: read by the tools that will read them, and held against the program's own tables."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import hcl2
import pytest
import yaml
from django.core.management import get_commands

from deployments.settings_table import SECRETS, SETTINGS
from registry_admin import VERSION
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "registry-admin"
#: Variables of other programs that our files set or name.
FOREIGN = re.compile(r"AWS_|POSTGRES_|PYTHON|ENV_FILE$|PATH$|SITE$|UPSTREAM$|SETTINGS$|VERSION$|BASE$")
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def needs(*programs: str) -> pytest.MarkDecorator:
    absent = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(absent), reason=f"needs Debian's {' and '.join(absent)}")


def run(*command: str, **env: str) -> str:
    """What the command prints on both streams. It must end with status 0."""
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def compose() -> dict[str, Any]:
    """compose.yaml with its defaults and merges, as Compose reads it."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "compose.yaml").read_text())
    read = compose_spec.PyOptions(apply_merge=True).from_yaml(text)
    read.validate()
    found: dict[str, Any] = read.to_dict()
    return found


# --------------------------------------------------------------------------------------------------------- every file


def test_the_image_compose_and_the_chart_have_the_version_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert re.findall(r"^ARG VERSION=(.+)", DOCKERFILE, re.MULTILINE) == [VERSION]
    assert [chart["version"], chart["appVersion"]] == [VERSION, VERSION]
    # A tag of each version, so that the image of the version before is there to go back to.
    assert compose()["services"]["web"]["image"] == f"registry-admin:{VERSION}"
    assert compose()["services"]["sandbox"]["image"] == f"registry-admin-sandbox:{VERSION}"


def test_every_process_that_an_artefact_starts_is_a_command() -> None:
    units = {path.stem: path.read_text() for path in (DEPLOY / "systemd").glob("*.service")}
    started = {re.findall(r"^ExecStart=\S+/registry-admin (\w+)$", unit, re.MULTILINE)[0] for unit in units.values()}
    started |= {each["command"][0] for each in compose()["services"].values() if "command" in each}
    started |= set(json.loads(re.findall(r"^CMD (.+)", DOCKERFILE, re.MULTILINE)[0]))

    assert {f"registry-admin-{role}" for role in started} == set(units)
    assert started == {"web", "worker", "events", "migrate"}
    assert started <= set(get_commands())


def test_the_artefacts_name_only_settings_that_exist() -> None:
    settings = {setting.name for setting in SETTINGS}
    found = {
        (DEPLOY / name).relative_to(ROOT): set(re.findall(pattern, (DEPLOY / name).resolve().read_text(), re.MULTILINE))
        for name, pattern in {
            "helm/registry-admin/values.yaml": r"\b([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\b",
            "compose/rehearsal.env": r"^([A-Z][A-Z0-9_]*)=",
            "terraform/outputs.tf": r"^ +([A-Z][A-Z0-9_]*) +=",
            "terraform/variables.tf": r"\b([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\b",
            "nginx/registry-admin.conf": r"\b([A-Z][A-Z0-9_]*)=",
            "caddy/Caddyfile": r"\b([A-Z][A-Z0-9_]*)=",
            "systemd/registry-admin-.service.d/common.conf": r"\b([A-Z][A-Z0-9_]*)=(?=%|/)",
        }.items()
    }
    found[Path("compose.yaml")] = set(compose()["services"]["worker"]["environment"])

    unknown = {
        (str(path), name)
        for path, names in found.items()
        for name in names
        if name.removesuffix("_FILE") not in settings and not FOREIGN.match(name)
    }
    assert all(found.values())
    assert unknown == set()


def test_the_charts_schema_keeps_every_secret_out_of_its_settings() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    refused = {name for name, rule in schema["properties"]["settings"]["properties"].items() if rule is False}

    assert refused == {*SECRETS, "AWS_SECRET_ACCESS_KEY", "BIND", "CONFIGURATION_GENERATION"}


# ---------------------------------------------------------------------------------------------------------- the image


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert run(str(Path(sys.executable).with_name("hadolint")), "--no-color", str(ROOT / "Dockerfile")) == ""


def test_the_image_runs_as_an_unprivileged_user_without_a_shell_and_takes_only_hashed_packages() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    installed = re.findall(r"pip install (.+?)(?: &&|$)", DOCKERFILE, re.MULTILINE)

    assert "\nUSER 10001:10001\n" in last
    assert json.loads(re.findall(r"^ENTRYPOINT (.+)", last, re.MULTILINE)[0]) == ["registry-admin"]
    assert len(installed) == 2
    assert all("--require-hashes" in each and "--only-binary :all:" in each for each in installed)
    assert 'org.opencontainers.image.licenses="MIT"' in last


def test_the_image_gets_no_file_of_an_installation() -> None:
    """`.dockerignore` begins with everything, and none of what it takes back can hold a key, a database or settings."""
    ignored, *taken = [each for each in (ROOT / ".dockerignore").read_text().splitlines() if not each.startswith("#")]
    back = [each.removeprefix("!") for each in taken if each.startswith("!")]

    assert ignored == "*"
    assert [each for each in back if not (ROOT / each).exists()] == []
    assert not {"secrets", "state", ".env", "registry-admin.env", "db.sqlite3", "secret_key", ".", "deploy"} & set(back)


# ------------------------------------------------------------------------------------------------------- compose.yaml


def test_compose_confines_every_process_and_starts_it_after_the_migrations() -> None:
    services = compose()["services"]

    assert {services[name]["pull_policy"] for name in services if "registry-admin" in services[name]["image"]} == {
        "never"
    }
    for role in ("web", "worker", "events", "migrate"):
        service = services[role]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["stop_grace_period"] == "40s"
        assert service["tmpfs"] == ["/tmp"]  # noqa: S108
        waits = {name: each["condition"] for name, each in service["depends_on"].items()}
        if role == "migrate":
            assert waits == {"postgresql": "service_healthy"}
        else:
            assert waits == {"migrate": "service_completed_successfully"}
    assert services["proxy"]["depends_on"]["web"]["condition"] == "service_healthy"
    assert services["sandbox"]["profiles"] == ["rehearsal"]
    assert services["sandbox"]["ports"][0].startswith("127.0.0.1:")


def test_compose_passes_secrets_by_file_only() -> None:
    document = compose()
    passed = {
        name: value
        for service in document["services"].values()
        for name, value in service.get("environment", {}).items()
    }
    by_file = {
        name: value for name, value in passed.items() if name.endswith("_FILE") and value.startswith("/run/secr")
    }

    assert set(by_file) == {"DATABASE_URL_FILE", "SECRET_KEY_FILE", "POSTGRES_PASSWORD_FILE"}
    assert not set(passed) & set(SECRETS)
    assert {Path(value).name for value in by_file.values()} == set(document["secrets"])


@needs("base64", "head")
def test_the_script_makes_the_secrets_once_and_private(tmp_path: Path) -> None:
    script = DEPLOY / "compose" / "secrets.sh"
    made = []
    for _ in range(2):
        done = subprocess.run(["sh", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=20)
        assert done.returncode == (os.getuid() != 0), done.stderr
        made.append({path.name: path.read_text().strip() for path in (tmp_path / "secrets").iterdir()})

    assert made[0] == made[1]
    assert set(made[0]) == set(compose()["secrets"])
    assert re.fullmatch(r"[\w-]{48}", made[0]["database_password"])
    assert f"registry_admin:{made[0]['database_password']}@postgresql:5432/" in made[0]["database_url"]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o600}


# ------------------------------------------------------------------------------------------------------------ systemd


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that exists."""
    folder = tmp_path / "units"
    shutil.copytree(DEPLOY / "systemd", folder)
    for path in folder.glob("*.service"):
        path.write_text(path.read_text().replace("/opt/registry-admin/bin/registry-admin", "/bin/true"))
    return folder


@needs("systemd-analyze")
def test_systemd_finds_nothing_wrong_in_the_units_and_they_are_confined(units: Path) -> None:
    files = [str(path) for path in sorted(units.iterdir()) if path.suffix in (".service", ".target")]
    there = f"{units}:"  # and systemd's own

    assert len(files) == 5
    assert run("systemd-analyze", "verify", "--man=no", *files, SYSTEMD_UNIT_PATH=there) == ""
    # Exits with 1 if a unit is more exposed than 2.0 of 10; that the shared file counts at all shows here, too.
    services = [path for path in files if path.endswith(".service")]
    run("systemd-analyze", "security", "--offline=yes", "--threshold=20", *services, SYSTEMD_UNIT_PATH=there)


def test_a_command_of_an_operator_gets_the_settings_and_the_user_of_the_units() -> None:
    script, common = (
        (DEPLOY / "systemd" / name).read_text() for name in ("registry-admin", "registry-admin-.service.d/common.conf")
    )

    for line in re.findall(r"^((?:User|UMask|LoadCredential)=.+)$", common, re.MULTILINE):
        assert f"--property={line}" in script
    [state] = re.findall(r"\bSTATE_DIR=\S+", common)
    assert f"--setenv={state} " in script
    run("sh", "-n", str(DEPLOY / "systemd" / "registry-admin"))


@needs("systemd-sysusers")
def test_the_user_of_the_units_is_made_as_their_files_say(tmp_path: Path) -> None:
    said = run(
        "systemd-sysusers", "--dry-run", f"--root={tmp_path}", str(DEPLOY / "systemd/registry-admin.sysusers.conf")
    )

    assert "Creating user 'registry-admin'" in said
    assert "User=registry-admin\n" in (DEPLOY / "systemd/registry-admin-.service.d/common.conf").read_text()


# ------------------------------------------------------------------------------------------------------------ proxies


@needs("nginx")
def test_nginx_sends_pages_to_https_and_refuses_the_api_without_it(tmp_path: Path) -> None:
    """The half of the file that tests/e2e/test_proxies.py does not ask."""
    plain = (DEPLOY / "nginx" / "registry-admin.conf").read_text().partition("server {\n    listen 443")[0]
    assert "listen 80;" in plain
    listener = tmp_path / "http"
    paths = "".join(
        f"{each}_temp_path {tmp_path}/{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}} http {{ access_log off; {paths}\n"
        + plain.replace("listen 80;", f"listen unix:{listener};")
        + "}"
    )
    command = ["nginx", "-p", str(tmp_path), "-c", f"{tmp_path}/nginx.conf", "-e", f"{tmp_path}/log"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listener.exists() or process.poll() is not None)
        answers = {}
        for path in ("/admin/?next=a", "/api/v1/deployments"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(listener))
                connection.sendall(f"GET {path} HTTP/1.0\r\nHost: deploy.example.com\r\n\r\n".encode())
                answers[path] = connection.makefile().read()
    finally:
        process.terminate()
        process.wait(20)

    assert "301 Moved" in answers["/admin/?next=a"]
    assert "Location: https://deploy.example.com/admin/?next=a" in answers["/admin/?next=a"]
    assert "403 Forbidden" in answers["/api/v1/deployments"]


# ---------------------------------------------------------------------------------------------------------- terraform


def terraform() -> dict[str, Any]:
    """The blocks of deploy/terraform, of its module for consumer accounts too."""
    found: dict[str, Any] = {}
    for path in sorted((DEPLOY / "terraform").rglob("*.tf")):
        with path.open() as file:
            for kind, blocks in hcl2.load(file).items():
                if isinstance(blocks, list):
                    found.setdefault(kind, []).extend(blocks)
    return found


def test_terraform_allows_the_program_what_it_needs_and_nothing_else() -> None:
    """Its actions are read from docs/iam-policy.json, which tests/test_docs.py holds against the calls in the code."""
    text = "".join(path.read_text() for path in (DEPLOY / "terraform").rglob("*.tf"))
    documented = {
        each["Sid"]: each["Action"] for each in json.loads((ROOT / "docs/iam-policy.json").read_text())["Statement"]
    }
    allowed = set(re.findall(r'local\.actions\["(\w+)"\]', text))
    literal = {
        action
        for actions in re.findall(r'(\["[a-z]+:[^]]*\])', text)
        for action in json.loads(actions)
        if re.fullmatch(r"\w+:[\w*]+", action)
    }

    # A role never calls GetFederationToken: that statement is for the keys of an IAM user.
    assert allowed == set(documented) - {"LoginsForOneRepository"}
    assert literal == {
        # of the push role and the probe roles: what README says that they need
        "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetAuthorizationToken",
        "ecr:GetDownloadUrlForLayer",
        # of trust policies, and of the queue's and the key's own policies
        "sts:AssumeRole", "sts:AssumeRoleWithWebIdentity", "sqs:SendMessage", "kms:*", "kms:GenerateDataKey",
        "kms:Decrypt", "kms:CreateGrant", "kms:DescribeKey",
    }  # fmt: skip


def test_terraform_is_well_formed_and_uses_what_it_declares() -> None:
    blocks = terraform()
    text = "".join(path.read_text() for path in (DEPLOY / "terraform").rglob("*.tf"))
    variables = {name.strip('"') for each in blocks["variable"] for name in each}
    made = {
        (kind.strip('"'), name.strip('"')) for each in blocks["resource"] for kind, of in each.items() for name in of
    }
    used = set(re.findall(r"(?<!\.)\b(aws_\w+)\.(\w+)", re.sub(r'data\.aws_\w+\.\w+|"[^"$]*"', "", text)))

    assert set(re.findall(r"\bvar\.(\w+)", text)) == variables
    assert used <= made
    assert {kind for kind, _ in made} >= {"aws_iam_role", "aws_iam_instance_profile", "aws_sqs_queue", "aws_kms_key"}


@needs("terraform")
def test_terraform_finds_nothing_to_format() -> None:
    run("terraform", "fmt", "-check", "-recursive", str(DEPLOY / "terraform"))
