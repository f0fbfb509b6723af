"""Secrets with texts of their own go through every flow of a whole installation; then everything written is searched.

Real processes: web, worker and sandbox, with LOG_LEVEL=DEBUG. Searched are the log of each process, every column of
every table, the bytes of each file, the answers of the API and of the console, the metrics, and what commands print. An
answer that hands a secret out on purpose is named in HANDS_OUT.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlencode

import pyotp
import pytest

from tests.attack.attacker import Sent
from tests.attack.listeners import listening
from tests.faults.installation import CANARIES, OPERATOR, Answer, Asked, Installation, Project, installations, wait_for

KIND = "canary secrets through every flow"
#: Answers that hand secrets out on purpose: method and path, and which.
HANDS_OUT = {
    r"GET /api/v1/projects/[^/]+/\w+": "a key for deploys",
    r"POST /api/v1/deployments/[^/]+/generate-registry-credentials": "a log-in for the registry",
    r"POST /api/v1/projects/[^/]+/\w+/pull-credentials": "a log-in for the registry",
    r"GET /api/v1/projects/[^/]+/envvars": "the variables, to the build",
    r"POST /api/v1/authorization-code": "the code of a log-in",
    r"POST /api/v1/token": "a personal access token",
    r"POST /account/login/.*": "the approval code",
    r"POST /admin/deployments/accesskey/(add|\d+/rotate)/": "a new key, once",
    r"POST /admin/deployments/notificationchannel/add/": "the secret that signs, once",
    r"(GET|POST) /admin/deployments/environment/.*": "variables that are not secret",
    r"(GET|POST) /admin/your-log-in/add/": "the key of a new app and the recovery codes, once",
}
PASSWORD = "canary-Password-of-a-person-1"
VERIFIER = "canary-verifier-" + "v" * 48
#: Name → text that is sent or configured.
SECRETS = {
    **CANARIES,
    "SECRET_KEY_FALLBACKS": "canary-fallback-key-0123456789-0123456789-0123456789",
    "mail password": "canary-mail-password",
    "registry password": "canary-registry-password",
    "variable": "canary-variable",
    "secret variable": "canary-hidden-variable",
    "variable of the console": "canary-console-variable",
    "git password": "canary-git-password",
    "git token": "canary-git-token",
    "webhook": "canary-webhook-path",
    "Slack": "canary-slack-path",
    "password": PASSWORD,
    "wrong password": "canary-wrong-password",
    "verifier": VERIFIER,
    "wrong code": "CANA-RYCO-DEOF-NOBO",
}
MOST_PAGES = 150


@functools.cache
def _forms(secret: str) -> tuple[str, ...]:
    """A secret as it is, in an address, and in base64 after 0, 1 or 2 other bytes (modulo 3), as in a log-in."""
    encoded = [base64.b64encode(b"x" * before + secret.encode()).decode().rstrip("=") for before in range(3)]
    return (secret, quote(secret, safe=""), encoded[0][:-2], encoded[1][2:-2], encoded[2][3:-2])


@dataclass(slots=True, kw_only=True)
class Search:
    """What was searched, and where a secret is."""

    secrets: dict[str, str]
    found: list[str] = field(default_factory=list)
    texts: int = 0

    def look(self, where: str, text: str, *, but: tuple[str, ...] = ()) -> None:
        """Search a text. `but`: names of secrets that may be there."""
        self.texts += 1
        for name, secret in self.secrets.items():
            if name in but:
                continue
            if any(form in text for form in _forms(secret)):
                self.found.append(f"{name} in {where}")


def _new(installation: Installation, pattern: str, answer: Answer, name: str) -> str:
    """A secret that an answer has handed out; it is searched for from now on."""
    text = re.search(pattern, answer.text)
    assert text is not None, f"{name}: {answer.status} {answer.text[:300]}"
    installation.secrets.add(text[1])
    return text[1]


def _deploys(installation: Installation, project: Project) -> None:
    """A deploy with everything, one of an old CLI, and one that fails."""
    prod = project.keys["prod"]
    for remote in (
        f"https://ada:{SECRETS['git password']}@github.com/acme/jobs.git",
        f"https://{SECRETS['git token']}@github.com/acme/jobs.git?token={SECRETS['git token']}",
        f"ssh://git:{SECRETS['git password']}/x@host/jobs.git",
    ):
        begun = installation.deploy(project, key=f"key-{time.monotonic()}", gitMeta={"remoteUrl": remote}).body
    given = installation.credentials(project, begun["id"]).body
    image = installation.push(project, begun, given)
    installation.index(project, begun["id"])
    installation.finalize(project, begun["id"], image.digest)
    old = installation.post("/api/v1/deployments", {"contentHash": "a" * 64}, key=prod).body
    installation.post(f"/api/v1/deployments/{old['id']}/generate-registry-credentials", {}, key=prod)
    failed = installation.deploy(project, key="fails").body["id"]
    installation.post(f"/api/v1/deployments/{failed}/fail", {"error": {"name": "E", "message": "no"}}, key=prod)
    variables = {"PLAIN": SECRETS["variable"]}
    path = f"/api/v1/projects/{project.ref}/envvars/prod/import"
    assert installation.post(path, {"variables": variables}, key=prod).status == 200
    hidden = {"variables": {"HIDDEN": SECRETS["secret variable"]}, "isSecret": True}
    assert installation.post(path, hidden, key=prod).status == 200
    installation.post(path, {"variables": {**variables, "": SECRETS["variable"]}}, key=prod)  # refused
    assert SECRETS["secret variable"] in installation.get(f"/api/v1/projects/{project.ref}/envvars", key=prod).text
    made = installation.get(f"/api/v1/projects/{project.ref}/prod", key=installation.token)
    _new(installation, r'"apiKey": "(\w+)"', made, "a key for deploys")
    pulls = f"/api/v1/projects/{project.ref}/prod/pull-credentials"
    for query, name in (("", "password"), ("?format=dockerconfigjson", r"\.dockerconfigjson")):
        made = installation.post(f"{pulls}{query}", {}, key=prod)
        _new(installation, rf'"{name}": "([^"]+)"', made, "a log-in for pulls")
    installation.get("/api/v1/deployments", key=prod)
    installation.get(f"/api/v1/deployments/{begun['id']}", key=prod)
    installation.get("/api/v1/deployments/current", key=prod)


def _misplaced(installation: Installation, project: Project) -> None:
    """Keys and passwords where they do not belong."""
    prod = project.keys["prod"]
    installation.get(f"/api/v1/deployments?token={prod}&key={installation.token}")
    installation.get(f"/api/{prod}/deployments")
    installation.get(f"/admin/{prod}/", key=prod)
    basic = base64.b64encode(f"x:{prod}".encode()).decode()
    for headers in (
        {"Authorization": f"Basic {basic}"},
        {"Authorization": prod},
        {"X-Api-Key": prod},
        {"Cookie": prod},
    ):
        installation.request("GET", "/api/v2/whoami", headers=headers)
    for body in (prod, json.dumps([prod]), json.dumps({"contentHash": [prod]}), f'{{"{prod}": 1, "{prod}": 2}}'):
        installation.request("POST", "/api/v1/deployments", body.encode(), key=prod)
    installation.post(f"/api/v1/deployments/{prod}/fail", {"error": {"name": prod}}, key=project.keys["preview"])
    installation.request("GET", "/metrics", key="canary-wrong-password")


def _log_in_of_a_cli(installation: Installation) -> None:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
    begun = installation.request(
        "POST", "/api/v1/authorization-code", {"codeChallenge": challenge, "codeChallengeMethod": "S256"}
    )
    code = _new(installation, r'"authorizationCode": "([^"]+)"', begun, "the code of a log-in")
    place = "/account/login/" + begun.body["url"].rpartition("/")[2]
    approved = installation.console("POST", place, {"approve": "1"})
    approval = _new(installation, r"\b([A-Z2-9]{4}-[A-Z2-9]{4}-[A-Z2-9]{4})\b", approved, "the approval code")
    proof = {"authorizationCode": code, "codeVerifier": VERIFIER, "approvalCode": approval}
    installation.request("POST", "/api/v1/token", {**proof, "codeVerifier": "canary-wrong-password"})
    token = installation.request("POST", "/api/v1/token", proof)
    _new(installation, r'"token": "(tr_\w+)"', token, "a personal access token")


def _console(installation: Installation, hook: int) -> None:
    installation.request("GET", "/admin/login/")
    wrong = {"username": OPERATOR, "password": SECRETS["wrong password"], "next": "/admin/"}
    form = urlencode({**wrong, "csrfmiddlewaretoken": installation._cookies["csrftoken"]}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": installation._cookie()}
    assert installation.request("POST", "/admin/login/", form, headers=headers).status == 200
    pages = "/admin/deployments"
    environment = installation.database.value("SELECT id FROM deployments_environment WHERE slug = 'prod' LIMIT 1")
    made = installation.console(
        "POST", f"{pages}/accesskey/add/", {"kind": "environment", "environment": str(environment)}
    )
    _new(installation, r"\b(tr_\w{20,})", made, "a key of the console")
    key = installation.database.value("SELECT max(id) FROM deployments_accesskey")
    rotated = installation.console("POST", f"{pages}/accesskey/{key}/rotate/", {"hours": "1"})
    _new(installation, r"\b(tr_\w{20,})", rotated, "a rotated key")
    variable = {"name": "CONSOLE", "value": SECRETS["variable of the console"], "is_secret": "on"}
    assert installation.console("POST", f"{pages}/environment/{environment}/variable/", variable).status == 302
    passwords = {"password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
    assert installation.console("POST", "/admin/auth/user/add/", {"username": "kim", **passwords}).status == 302
    installation.console("POST", "/admin/auth/user/add/", {"username": "kim", **passwords})  # refused: a second one
    for name, kind, address in (
        ("hook", "webhook", f"http://127.0.0.1:{hook}/api/{SECRETS['webhook']}"),
        ("slack", "slack", f"http://127.0.0.1:{hook}/services/{SECRETS['Slack']}"),
        ("mail", "mail", "mira@example.com"),
    ):
        channel = {"name": name, "kind": kind, "address": address, "enabled": "on"}
        added = installation.console("POST", f"{pages}/notificationchannel/add/", channel)
        assert added.status == (200 if kind == "webhook" else 302), name
        if kind == "webhook":
            _new(installation, r"(whsec_[\w-]+)", added, "the secret that signs")
        installation.console("POST", f"{pages}/notificationchannel/add/", channel)  # refused: a second one
    for row in installation.database.query("SELECT id FROM deployments_notificationchannel"):
        installation.console("POST", f"{pages}/notificationchannel/{row['id']}/test/")
    installation.request("POST", "/admin/forgotten/", b"", headers=headers)


def _second_factor(installation: Installation) -> None:
    """The operator adds an app, logs in with a recovery code, and gives wrong codes in another browser."""
    add, step = "/admin/your-log-in/add/", "/admin/login/second-factor/"
    shown = _new(
        installation, r"<code>((?:[A-Z2-7]{4} ){7}[A-Z2-7]{4})</code>", installation.console("GET", add), "a key"
    )
    seed = shown.replace(" ", "")
    installation.secrets.add(seed)
    added = installation.console("POST", add, {"code": pyotp.TOTP(seed).now(), "name": "Phone"})
    codes = re.findall(r"<code>((?:[A-Z2-7]{4}-){3}[A-Z2-7]{4})</code>", added.text)
    assert len(codes) == 10, added.status
    installation.secrets.update(codes)
    installation._cookies.clear()
    installation.console("GET", "/admin/")  # with the password
    assert installation.console("POST", step, {"code": codes[0]}).status == 302
    mine = dict(installation._cookies)
    installation._cookies.clear()
    installation.console("GET", "/admin/")
    assert installation.console("POST", step, {"code": SECRETS["wrong code"]}).status == 200
    assert installation.console("POST", step, {"credential": SECRETS["wrong code"]}).status == 200
    installation._cookies.clear()
    installation._cookies.update(mine)
    assert installation.console("GET", "/admin/").status == 200


def _work(installation: Installation, project: Project) -> None:
    """A sweep of the worker, deploys while AWS refuses, and the notifications about it."""
    installation.fault("error", "ecr:*", code="AccessDeniedException", status=400)
    installation.deploy(project, key="refused")
    installation.console("POST", "/admin/deployments/sweep/start/")
    ended = "SELECT count(*) FROM deployments_sweep WHERE status = 'running'"
    wait_for(lambda: installation.database.value(ended) == 0, 60, "the sweep's end")
    installation.sandbox.clear_faults()
    tried = "SELECT count(*) FROM deployments_notificationdelivery WHERE attempts > 0 AND event <> 'test'"
    wait_for(lambda: installation.database.value(tried), 60, "a notification")


def _commands(installation: Installation) -> Iterator[tuple[str, str]]:
    """What commands print that print no key on purpose."""
    for command in (
        ("doctor",), ("keys", "list", "--all"), ("keys", "revoke", "tr_nothing"), ("configuration", "list"),
        ("notify", "list"), ("notify", "test", "slack"), ("notify", "test", "mail"), ("reconcile", "--all"),
        ("check", "--deploy"), ("env_example",), ("writes", "status"), ("reencrypt",),
    ):  # fmt: skip
        _, out, err = installation.command(*command)
        yield " ".join(command), out + err


def _pages(installation: Installation) -> Iterator[tuple[str, str]]:
    """Every page of the console that a link leads to, as its operator sees it."""
    waiting, seen = ["/admin/"], set[str]()
    while waiting and len(seen) < MOST_PAGES:
        path = waiting.pop(0)
        answer = installation.console("GET", path)
        yield path, answer.text
        for link in re.findall(r'href="(/admin/[^"#]*)"', answer.text):
            place = link.partition("?")[0]
            if place not in seen:
                seen.add(place)
                waiting.append(place)


def _rows(installation: Installation) -> Iterator[tuple[str, str]]:
    for table in sorted(installation.database.tables()):
        for row in installation.database.query(f"SELECT * FROM {table}"):  # noqa: S608  (names of our tables)
            for column, value in row.items():
                yield f"{table}.{column}", str(value)


def _files(installation: Installation) -> Iterator[tuple[str, str]]:
    for path in sorted(installation.folder.rglob("*")):
        if path.is_file() and not path.is_relative_to(installation.folder / "static"):
            yield path.name, path.read_bytes().decode(errors="replace")


def _name_of(asked: Asked) -> str:
    return f"{asked.method} {unquote(asked.path).partition('?')[0]}"


@pytest.mark.slow
@pytest.mark.attack(sample=0)
@pytest.mark.timeout(300)
def test_no_secret_is_written_or_shown_anywhere(sent: Sent) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ra-attack-"))
    with listening() as (mail, hook, heard), installations(folder) as of:
        installation = of("sqlite", "secrets")
        installation.end_commander()
        installation.settings = {
            "EMAIL_URL": f"smtp://mailer:{SECRETS['mail password']}@127.0.0.1:{mail}",
            "SECRET_KEY_FALLBACKS": SECRETS["SECRET_KEY_FALLBACKS"],
            "NOTIFY_ALLOW_PRIVATE": "1",
            "LOG_LEVEL": "DEBUG",
            "V4_DEPLOY_REGISTRY_HOST": installation.host,
            "DEPLOY_REGISTRY_HOST": "127.0.0.1:1",
            "DEPLOY_REGISTRY_USERNAME": "pusher",
            "DEPLOY_REGISTRY_PASSWORD": SECRETS["registry password"],
        }
        project = installation.bootstrap("Canaries")
        installation.start_web()
        installation.start_worker()
        for flow in (_deploys, _misplaced):
            flow(installation, project)
        _console(installation, hook)
        _second_factor(installation)
        _log_in_of_a_cli(installation)
        _work(installation, project)
        scraped = [installation.get(path, key=CANARIES["METRICS_KEY"]) for path in ("/metrics", "/status.json")]
        assert [answer.status for answer in scraped] == [200, 200]

        issued = {f"issued secret {number}": text for number, text in enumerate(sorted(installation.secrets))}
        search = Search(secrets={**SECRETS, **issued})
        for command, text in _commands(installation):
            search.look(f"what manage.py {command} prints", text)
        for path, text in _pages(installation):
            search.look(f"the page {path}", text, but=("variable",))
        for asked in installation.asked:
            sent.count()
            if not any(re.fullmatch(pattern, _name_of(asked)) for pattern in HANDS_OUT):
                echoed = tuple(name for name, secret in search.secrets.items() if secret in asked.path)
                search.look(
                    f"the answer to {_name_of(asked)}", asked.answer.text + str(asked.answer.headers), but=echoed
                )
        installation.stop()
        for column, text in _rows(installation):
            search.look(f"the column {column}", text)
        for name, text in _files(installation):
            search.look(f"the file {name}", text)

        assert search.found == []
        assert len(issued) > 12  # keys, tokens, codes, registry passwords
        assert search.texts > 1000
        assert any("AUTH" in line for line in heard)  # so the flows have used the secrets
        assert any(SECRETS["webhook"] in line for line in heard)
        assert any(SECRETS["Slack"] in line for line in heard)
