"""Migrations that have landed do not change: an installation that has run one never runs it again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from deployments.schema import AddIndexWhileServing

FOLDER = Path(__file__).resolve().parent.parent / "deployments" / "migrations"
RELEASED = "0001_initial"  # the last migration of the version that may serve while the later ones run
#: SHA-256 of each migration file as it landed. 0001 is version 0.1.0's (commit c3e5c70).
LANDED = {
    "0001_initial": "cc070ee6be1417daad2ec0d02bf3fb5b882e4d1e1808ba6bebec8b6f841e80e4",
    "0002_one_configuration_counts": "e099a969396c5708bce61a71f682019ce834dc706d249d13abf7de6a491e9e36",
    "0003_forced_deployments": "a8335aa9e2d255465411042b7c55bc89b8ac7513e3661fd1c89d4b07a468dfe0",
    "0004_what_was_overtaken": "97016875459c97284a9301d1b2308df166636c49fd60f1574aeee33f87648eba",
    "0005_management": "eb885ce2cae43908f04fd6e363494a81959149ab47ca61e97aed4997a504dd7a",
    "0006_incomparable_policies": "1d9b888ca6f3b6467000a327c4cf736df45bd89b500b62a0011639901da46e25",
    "0007_encrypted_addresses": "76783d3f8f2517bde5c1e955593dbb0f1f47074883eeda86be79475d4ae75221",
    "0008_single_sign_on": "c3e7c656ae1d08267598e2c5d3e2f67e33b47eaaa24010093f073d3c25ad43fe",
    "0009_second_factors": "fc35a9297fbd78ae39ccfb7c07b93b4daac684d923a9cb84bd1fad54ea5860f0",
    "0010_registry_policies": "bdd3c6973a686cc9dce38d89fa814eca2162d43d8723b77959468cf3aab31f1c",
    "0011_channel_kinds": "bf45af189b24c1f4f7f96fc4520dc92cf51ed72c8bada4101cff0d2b6a23f3b8",
    "0012_key_clients": "071bea0adf063b8cd51d948eb1a1832387e9c9e919405a2e2bc1c47e47e99f21",
    "0013_lifecycle_previews": "0f32337bac70201d84e5edd1c89bb8e86d80afbc7e73d6e8ddf79fff7fd2e767",
    "0014_refresh": "84f8f7509383439991bafc03f6d063dd47c76e0a52bc3916e6554ae46da60de8",
    "0015_image_states": "ea6786b2ec3e4e5a4cfcac945b654c38da39b0fb8930962f2cc9e9882eba11a7",
    "0016_adopted_statements": "ad54f3fa9bc95088674c5e6fd62837500421fea1fa05c8380ba5c029ea23b84e",
    "0017_archived_projects": "e9363637972d2bfaedeccd482acf7dcdf5eb16c9f00e01a8912cd04b311d6506",
    "0018_log_ins": "53a7113dcc77a05231a899cf336e8cb09368a5226e02b35956f005c99fe8769d",
    "0019_last_requests": "f6d29bf15cfd3f3c98aa819e11273735e53dea578ae4f9185215eeca4cd03fa3",
    "0020_trust_policies": "a8754408790056593993f94400bf3fa6b0120d66d18de31f1998544b7307ab3b",
    "0021_policy_versions": "d9757c9615ff9fa980e815d9b3209d3c2b73df1a9db86f9382880f409a960e2f",
    "0022_foreign_statements": "bcc3bfb923eb910b61d7274438c35389fb50c41cc79d79d63c29c4b340c3141a",
    "0023_retention": "36dd536075f91f536fe100483c488a672b5d723afae15266c1e74cc53b06a174",
    "0024_change_feed": "9728ba3bee0826c4d296ad10bdcc809c28043a9198488580582f2905d07e3172",
    "0025_lists_at_size": "ea550e6220c95413194ee2141678284e904a20048b1894224852084aa3acc265",
    "0026_call_budget_measurement": "eba50f181d7565b7d0bc2bafa443d23d61377fe1efb688cb74a8355eea0e8484",
}


def present() -> dict[str, str]:
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.glob("[0-9]*.py")}


@pytest.mark.parametrize("name", LANDED)
def test_a_migration_that_landed_never_changes(name: str) -> None:
    assert present().get(name) == LANDED[name], (
        f"deployments/migrations/{name}.py was changed or removed. Installations that have run it never run it again, "
        f"so they would lack the change. Restore it (git checkout origin/main -- deployments/migrations/{name}.py), "
        "and make the change as a new migration (manage.py makemigrations)."
    )


def test_a_new_migration_is_listed_when_it_lands() -> None:
    new = {name: digest for name, digest in present().items() if name not in LANDED}

    assert not new, (
        "New migrations. While they run, the version before goes on serving: only add (nullable, or with db_default), "
        "remove from the state first and from the database a release later. One that changes more than one "
        "table that is in use begins with `schema.lock_tables`. Then freeze them: add to LANDED in "
        f"tests/test_migrations.py {', '.join(f'{name!r}: {digest!r}' for name, digest in sorted(new.items()))}."
    )


@pytest.mark.costly
@pytest.mark.django_db
def test_a_migration_that_changes_several_tables_of_the_released_version_locks_them_first() -> None:
    """That version's processes use them meanwhile, in an order of their own (`schema.lock_tables`)."""
    loader = MigrationLoader(connection)
    released = {name for _, name in loader.project_state(("deployments", RELEASED)).models if name}
    for (app, name), migration in loader.disk_migrations.items():
        if app != "deployments" or name <= RELEASED:
            continue
        changed = set().union(*(tables(operation) for operation in migration.operations)) & released
        first = getattr(migration.operations[0], "code", None)
        locks = getattr(first, "__qualname__", "").startswith("lock_tables.")

        assert len(changed) < 2 or locks, f"{name} changes {sorted(changed)}: begin with schema.lock_tables"


def tables(operation: Any) -> set[str]:
    """Models, in lower case, whose tables an operation locks: its own, and those that its new foreign keys name."""
    if isinstance(operation, AddIndexWhileServing):
        return set()
    fields = [field for _, field in getattr(operation, "fields", [])] + [getattr(operation, "field", None)]
    targets = [field.remote_field.model for field in fields if getattr(field, "remote_field", None)]
    return {str(getattr(operation, "model_name", ""))} | {str(each).rpartition(".")[2].lower() for each in targets}
