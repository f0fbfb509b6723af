"""What of a large body comes into memory, and how many are worked on at once. tests/e2e/test_bodies.py measures it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.test import Client

from deployments import images
from deployments.api import bodies
from deployments.api.bodies import KIB, MAX_VALUES, MIB, BodyError, Rule, parse, without_dropped
from deployments.errors import Refusal
from deployments.models import BackgroundWorker, Deployment
from tests.support.cli import HASH, WORKER, Cli

RULE = Rule(drops=frozenset({"contents"}))
TEXTS = [
    '{"a": [1, "b"], "contents": "x"}',
    '{"contents" : "say \\"contents\\": \\"y\\" \\\\", "a": "contents", "b": {"contents":"z\\\\\\""}}',
    '{"a": "\\"contents\\"", "c": "contents", "d": [{"contents": {"contents": "not a text"}}, "contents"]}',
    '{"contents": "", "é": "ü👍", "e": "\\\\"}',
    "{}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_without_its_dropped_strings_parses_to_the_same_however_it_arrives(text: str) -> None:
    body = text.encode()
    for size in range(1, len(body) + 1):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]

        assert parse(without_dropped(pieces, RULE), RULE) == parse(body, RULE), size
        assert without_dropped(pieces, Rule()) == body


def test_a_dropped_string_does_not_come_into_memory() -> None:
    pieces = [b'{"files": [{"contents": "', *[b"\\n" * 32 * KIB] * 100, b'"}]}']

    assert without_dropped(pieces, RULE) == b'{"files": [{"contents": ""}]}'


@pytest.mark.parametrize("value", ["{}", "[]", '"x"', "1", '{"a":1}'])
def test_a_body_has_so_many_values_and_no_more(value: str) -> None:
    body = f"[{','.join([value] * (MAX_VALUES + 1))}]".encode()

    with pytest.raises(BodyError) as refused:
        without_dropped([body], Rule(kept=64 * MIB))

    assert (refused.value.status, refused.value.sentence) == (422, "The body has more than 150,000 values.")


def test_commas_and_brackets_in_a_text_are_no_values() -> None:
    body = json.dumps("[{," * MAX_VALUES).encode()

    assert without_dropped([body], Rule()) == body


def test_what_is_left_of_a_body_has_a_limit_of_its_own() -> None:
    with pytest.raises(BodyError) as refused:
        without_dropped([b'{"a": "', b"x" * 3 * MIB, b'"}'], RULE)

    assert refused.value.sentence == "The body has more than 3 MiB without “contents”."


def large(**more: object) -> str:
    return json.dumps({**WORKER, "contents": "x" * (MIB + 1), **more})


@pytest.mark.django_db
def test_a_third_large_body_is_a_503_that_is_worth_a_retry(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PLACE_WAIT_SECONDS", 0.01)
    path = f"/api/v1/deployments/{cli.deploy().body['id']}/background-workers"
    for _ in range(bodies.LARGE_AT_ONCE):
        assert bodies._places.acquire(blocking=False)
    try:
        answer = cli.send("POST", path, large(), headers={})
        small = cli.send("POST", path, json.dumps(WORKER), headers={})
    finally:
        bodies._places.release(bodies.LARGE_AT_ONCE)

    assert (answer.status, answer.body["code"], answer.headers["Retry-After"]) == (503, "too_many_large_bodies", "5")
    assert small.status == 200  # a small one needs no place


def test_a_body_that_the_server_does_not_wait_for_is_worth_a_retry_and_one_that_the_client_ends_is_not() -> None:
    class Ending(io.BytesIO):
        def __init__(self, error: OSError) -> None:
            super().__init__()
            self.error = error

        def read(self, size: int | None = -1, /) -> bytes:
            raise self.error

    def read(error: OSError) -> None:
        list(bodies._pieces(Ending(error), MIB, RULE, chunked=False))

    with pytest.raises(Refusal) as busy:
        read(ConnectionAbortedError("Too many threads wait for clients."))
    with pytest.raises(BodyError) as ended:
        read(ConnectionResetError("The client hung up."))

    assert (busy.value.code, busy.value.retryable) == ("too_many_large_bodies", True)
    assert (ended.value.status, ended.value.sentence) == (400, "The body broke off.")


@pytest.mark.costly
@pytest.mark.django_db
@pytest.mark.parametrize("body", [large(), large(metadata=None), large(x=["a"] * (MAX_VALUES + 1)), large() + "}"])
def test_each_request_gives_its_place_back(cli: Cli, body: str) -> None:
    path = f"/api/v1/deployments/{cli.deploy().body['id']}/background-workers"

    statuses = {cli.send("POST", path, body, headers={}).status for _ in range(bodies.LARGE_AT_ONCE + 1)}

    assert statuses <= {200, 400, 422}


@pytest.mark.django_db
def test_a_body_that_still_arrives_has_no_place(cli: Cli) -> None:
    class Slow(io.BytesIO):
        free: set[int] = set()

        def read(self, size: int | None = -1) -> bytes:
            found = bodies._places._value
            self.free.add(found)
            return super().read(size)

    body = large().encode()
    response = cli.client.request(
        **{"REQUEST_METHOD": "POST", "CONTENT_TYPE": "application/json", "HTTP_AUTHORIZATION": f"Bearer {cli.key}"},
        **{"PATH_INFO": f"/api/v1/deployments/{cli.deploy().body['id']}/background-workers"},
        **{"CONTENT_LENGTH": str(len(body)), "wsgi.input": Slow(body)},
    )

    assert (response.status_code, Slow.free) == (200, {bodies.LARGE_AT_ONCE})


@pytest.mark.costly
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ([{"id": "a", "filePath": "b"}] * 10_001, "at most 10000 items"),
        ([{"id": "a" * 501, "filePath": "b"}], "at most 500 characters"),
        ([{"id": "a", "filePath": "b" * 4097}], "at most 4096 characters"),
    ],
)
def test_too_many_or_too_long_tasks_fail_the_deployment_before_an_id_is_made(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tasks: list[Any], says: str
) -> None:
    deployment_id = cli.deploy().body["id"]
    made: list[str] = []

    def new_id(kind: str) -> str:
        made.append(kind)
        return kind

    monkeypatch.setattr(images, "new_id", new_id)
    report = {**WORKER, "metadata": {"contentHash": HASH, "packageVersion": "1", "tasks": tasks}}

    answer = cli.post(f"/api/v1/deployments/{deployment_id}/background-workers", report)

    assert (answer.status, made) == (422, [])
    assert says in str(Deployment.objects.get().error)


@pytest.mark.costly
@pytest.mark.django_db
def test_ten_thousand_tasks_are_stored_and_the_page_shows_the_first_two_hundred(cli: Cli, admin_client: Client) -> None:
    deployment_id = cli.deploy().body["id"]
    tasks = [{"id": f"task-{number}", "filePath": "src/a.ts"} for number in range(10_000)]
    report = {**WORKER, "metadata": {"contentHash": HASH, "packageVersion": "1", "tasks": tasks}}

    assert cli.post(f"/api/v1/deployments/{deployment_id}/background-workers", report).status == 200
    page = admin_client.get(f"/admin/deployments/deployment/{deployment_id}/change/").content.decode()

    assert page.count("<code>task-") == 200
    assert "10000 found in the image" in page
    assert "Shown are the first 200 tasks." in page


@pytest.mark.costly
@pytest.mark.django_db
def test_an_answer_has_at_most_ten_thousand_tasks_of_an_older_row(cli: Cli) -> None:
    deployment_id = cli.deploying()
    task = {"id": "task_x", "slug": "a", "filePath": "b"}
    BackgroundWorker.objects.update(tasks=[task] * 10_001)

    assert len(cli.get(f"/api/v1/deployments/{deployment_id}").body["worker"]["tasks"]) == 10_000
