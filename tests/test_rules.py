"""The rules of the house that can be checked: doors stay shut, imports point one way, migrations are complete."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command

ROOT = Path(__file__).resolve().parent.parent

#: library → the only files (below the root) that may import it, outside the tests.
DOORS = {
    "boto3": {"deployments/aws/ecr.py"},
    "botocore": {"deployments/aws/ecr.py"},
    "django_q": {"deployments/tasks.py"},
    "ninja": {"deployments/api/"},
    "cryptography": {"deployments/access/vault.py"},
    "environ": {"registry_admin/settings.py"},
}
#: What each room may not reach for. The pure ones import nothing that has a state.
FORBIDDEN = {
    "deployments/images.py": {"deployments", "django"},
    "deployments/config.py": {"deployments.models", "deployments.aws.ecr", "django"},
    "deployments/reconcile/desired.py": {"deployments.models", "deployments.aws.ecr", "django"},
    "deployments/access/vault.py": {"deployments", "django"},
    "deployments/catalogue.py": {"deployments", "django"},
    "deployments/deploys/oci_registry.py": {
        "deployments.models",
        "deployments.aws.ecr",
        "deployments.config",
        "django",
    },
    "deployments/policy/": {"deployments.models", "deployments.aws.ecr", "deployments.config", "django"},
    "deployments/models.py": {
        "deployments.aws.ecr",
        "deployments.reconcile.repositories",
        "deployments.deploys.lifecycle",
    },
    "deployments/aws/ecr.py": {
        "deployments.models",
        "deployments.reconcile.repositories",
        "deployments.deploys.lifecycle",
    },
    "deployments/reconcile/repositories.py": {"deployments.deploys.lifecycle", "deployments.tasks", "deployments.api"},
    "deployments/deploys/image_proof.py": {"deployments.models", "deployments.deploys.lifecycle", "django.conf"},
    "deployments/deploys/push_credentials.py": {"deployments.models", "deployments.deploys.lifecycle", "django.conf"},
    "deployments/deploys/lifecycle.py": {"deployments.tasks", "deployments.api", "deployments.admin", "django.conf"},
    "deployments/api/": {"deployments.admin", "deployments.aws.ecr"},
    "deployments/admin/": {"deployments.api", "deployments.aws.ecr"},
    "deployments/": {"sandbox", "tests"},
    "registry_admin/": {"sandbox", "tests"},
    "sandbox/": {"deployments", "registry_admin", "tests"},
}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of its code; `from a import b` counts as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reaches(imported: set[str], module: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for name in imported)


@pytest.mark.parametrize("library", DOORS)
def test_only_one_room_imports_the_library(library: str) -> None:
    outside = [
        str(path.relative_to(ROOT))
        for path in sources("deployments", "registry_admin")
        if reaches(imports(path), library) and not str(path.relative_to(ROOT)).startswith(tuple(DOORS[library]))
    ]

    assert outside == []


def test_only_the_settings_read_the_environment() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for path in sources("deployments", "registry_admin")
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]

    assert set(readers) <= {"registry_admin/settings.py", "registry_admin/wsgi.py"}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources("deployments", "registry_admin", "sandbox")
        if str(path.relative_to(ROOT)).startswith(room)
        for module in FORBIDDEN[room]
        if reaches(imports(path), module) and not _own(room, module)
    ]

    assert wrong == []


def _own(room: str, module: str) -> bool:
    """`deployments/images.py` may of course be in `deployments`."""
    return room.rstrip("/").replace("/", ".") == module


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_no_file_names_a_folder_that_a_stranger_does_not_have() -> None:
    needle = ".." + "/shared"
    named = [
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*")
        if path.is_file()
        and not {".git", ".venv", ".cache", "node_modules", ".mypy_cache", ".ruff_cache"} & set(path.parts)
        and path.suffix in {".py", ".md", ".toml", ".txt", ".html", ".css", ".js", ".json", ".ts", ""}
        and needle in path.read_text(errors="ignore")
    ]

    assert named == []
