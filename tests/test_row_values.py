"""JSON columns: the stored keys stay, what is read is typed, and only `from_row` and `as_row` know the keys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.core import serializers
from django.db import connection
from django.utils import timezone

from deployments.models import Deployment, Environment, Repository
from deployments.reconcile.repositories import GONE, RowValues
from deployments.row_values import (
    ConsumerPull,
    Difference,
    Encryption,
    Mutability,
    Part,
    PreviewResult,
    ProvedPull,
    Receipt,
    SeenStatement,
)

ROOT = Path(__file__).resolve().parent.parent
#: What version 0.1.0 stores, and what is read of it.
STORED: list[tuple[Any, dict[str, Any]]] = [
    (
        Difference(part=Part.TAGS, words="AWS tags missing.", fixable=True),
        {"what": "tags", "words": "AWS tags missing.", "writable": True},
    ),
    (
        Difference(part=Part.LIFECYCLE, words="It waits.", fixable=True, waits=True),
        {"what": "lifecycle", "words": "It waits.", "writable": True, "waits": True},
    ),
    (
        PreviewResult(text="1", images="2", at="x", words="No.", then="read", suggestion="{}"),
        {"text": "1", "images": "2", "at": "x", "words": "No.", "then": "read", "suggestion": "{}"},
    ),
    (ConsumerPull(verdict="no", words="No statement."), {"pull": "no", "words": "No statement."}),
    (
        SeenStatement(statement="{}", first_seen="x", by="y", kept=True, refused_by="z", refused_at="x", reason="r"),
        {
            "statement": "{}",
            "first_seen": "x",
            "by": "y",
            "kept": True,
            "refused_by": "z",
            "refused_at": "x",
            "reason": "r",
        },
    ),
    (SeenStatement(statement="{}", first_seen="x"), {"statement": "{}", "first_seen": "x"}),
    (Mutability(mode="MUTABLE"), {"mode": "MUTABLE", "exclusions": []}),
    (
        Mutability(mode="IMMUTABLE_WITH_EXCLUSION", exclusions=("cache",)),
        {"mode": "IMMUTABLE_WITH_EXCLUSION", "exclusions": ["cache"]},
    ),
    (Mutability(), {}),
    (Encryption(type="KMS", kms_key="arn"), {"type": "KMS", "kms_key": "arn"}),
    (Encryption(type="AES256"), {"type": "AES256", "kms_key": None}),
    (Encryption(), {}),
    (
        Receipt(
            at="2026-11-24T10:00:00+00:00",
            repository="host/trigger/x",
            digest="sha256:1",
            platforms=("linux/amd64",),
            manifests=3,
            layers=11,
            policy="sha256:2",
            pullers={"222222222222": ProvedPull(how="trial", words="It may.", roles=("arn",))},
        ),
        {
            "at": "2026-11-24T10:00:00+00:00",
            "repository": "host/trigger/x",
            "digest": "sha256:1",
            "platforms": ["linux/amd64"],
            "manifests": 3,
            "layers": 11,
            "policy": "sha256:2",
            "pullers": {"222222222222": {"pull": "yes", "how": "trial", "words": "It may.", "roles": ["arn"]}},
        },
    ),
    (
        Receipt(at="x", unproved="It is switched off."),
        {"at": "x", "digest": "", "platforms": [], "pullers": {}, "unproved": "It is switched off."},
    ),
    (
        Receipt(at="x", digest="sha256:1", unproved="No.", code="image_not_found"),
        {"at": "x", "digest": "sha256:1", "platforms": [], "pullers": {}, "unproved": "No.", "code": "image_not_found"},
    ),
]


@pytest.mark.parametrize(("value", "stored"), STORED, ids=lambda each: type(each).__name__)
def test_a_value_is_stored_under_the_keys_of_version_0_1_0_and_read_back(value: Any, stored: dict[str, Any]) -> None:
    assert list(value.as_row().items()) == list(stored.items())  # in this order, in which a page shows them
    assert type(value).from_row(stored) == value


@pytest.mark.parametrize("kind", [Difference, ConsumerPull, Mutability, Encryption, PreviewResult, ProvedPull, Receipt])
def test_missing_keys_and_those_of_a_newer_version_are_no_error(kind: Any) -> None:
    assert kind.from_row({}) == kind.from_row({"of the future": 1})


def test_a_part_that_only_a_newer_version_knows_is_another_part() -> None:
    read = Difference.from_row({"what": "scanning", "words": "Scanning is off.", "writable": True})

    assert read == Difference(part=Part.OTHER, words="Scanning is off.", fixable=True)


def stored(column: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {column} FROM deployments_repository")  # noqa: S608  (a name of ours)
        [value] = cursor.fetchone()
    return json.loads(value) if isinstance(value, str) else value


DIFFERENCE, PULL = STORED[0], STORED[3]


@pytest.mark.django_db
def test_a_row_holds_the_stored_keys_whichever_way_it_is_written_and_gives_values() -> None:
    row = Repository.objects.create(account="1", region="r", name="n", host="h")
    assert (row.mutability, row.encryption, row.differences, row.consumers) == (Mutability(), Encryption(), [], {})
    assert stored("mutability") == {}

    row.differences, row.mutability = [DIFFERENCE[0]], Mutability(mode="MUTABLE")
    row.save()
    Repository.objects.update(consumers={"222222222222": PULL[0]}, encryption=Encryption(type="AES256"))

    assert stored("differences") == [DIFFERENCE[1]]
    assert stored("consumers") == {"222222222222": PULL[1]}
    assert stored("mutability") == {"mode": "MUTABLE", "exclusions": []}
    row.refresh_from_db()
    assert (row.differences, row.consumers) == ([DIFFERENCE[0]], {"222222222222": PULL[0]})
    assert row.encryption.type == "AES256"
    assert Repository.objects.filter(differences=[DIFFERENCE[0]]).exists()


@pytest.mark.django_db
def test_a_dump_of_the_rows_holds_the_stored_keys_and_is_loaded_again(environment: Environment) -> None:
    receipt = Receipt(at="x", unproved="It is switched off.")
    Deployment.objects.create(
        project=environment.project, environment=environment, version_day="20261126", version_number=1,
        status="FAILED", receipt=receipt, failed_at=timezone.now(),
    )  # fmt: skip

    text = serializers.serialize("json", Deployment.objects.all())
    Deployment.objects.update(receipt=None)
    for loaded in serializers.deserialize("json", text):
        loaded.save()

    assert json.loads(text)[0]["fields"]["receipt"] == receipt.as_row()
    assert Deployment.objects.get().receipt == receipt


def test_the_columns_that_a_convergence_may_write_are_columns_of_the_row() -> None:
    columns = {field.name for field in Repository._meta.concrete_fields}

    assert set(RowValues.__annotations__) - columns == set()
    assert set(GONE) <= set(RowValues.__annotations__)


KEYS = "what|writable|pull|exclusions|kms_key|unproved|pullers|how"
FOREIGN = {"deployments/row_values.py"}


def test_no_code_but_from_row_and_as_row_knows_a_stored_key() -> None:
    reads = re.compile(rf"""(\[["']({KEYS})["']\]|\.get\(["']({KEYS})["']|["']({KEYS})["'] (not )?in )""")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "deployments").rglob("*.py"))
        if "migrations" not in path.parts and str(path.relative_to(ROOT)) not in FOREIGN
        for line in path.read_text().splitlines()
        if reads.search(line) and "options[" not in line  # a command's arguments
    ]

    assert found == []
