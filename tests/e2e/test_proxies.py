"""The files for nginx and Caddy in deploy/, as they are, in front of gunicorn as shipped."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import sqlite3
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from deployments.api.bodies import MIB
from tests.e2e.installation import Installation, Target
from tests.support.cli import DIGEST, HASH
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
NAME = "deploy.example.com"
CLIENT = "127.0.0.2"  # the proxy itself has 127.0.0.1
SLOW = 64


def changed(text: str, **changes: str) -> str:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


def nginx(folder: Path, port: int, web: int) -> list[str]:
    server = changed(
        (DEPLOY / "nginx" / "registry-admin.conf").read_text(),
        **{
            "listen 80;": f"listen unix:{folder}/http;",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            f"/etc/nginx/{NAME}.pem": f"{folder}/cert.pem",
            f"/etc/nginx/{NAME}.key": f"{folder}/key.pem",
            "127.0.0.1:8000": f"127.0.0.1:{web}",
        },
    )
    user = "user root;" if Path.home() == Path("/root") else ""  # else the workers cannot read the test's folder
    paths = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/log; events {{}} "
        f"http {{ access_log off; {paths}\n{server}\n}}"
    )
    return ["nginx", "-p", str(folder), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/log"]


def caddy(folder: Path, port: int, web: int) -> list[str]:
    site = "{$SITE:deploy.example.com} {"
    here = f"{site}\n    bind 127.0.0.1\n    tls {folder}/cert.pem {folder}/key.pem"
    text = changed((DEPLOY / "caddy" / "Caddyfile").read_text(), **{site: here})
    shown = subprocess.run(["caddy", "version"], capture_output=True, text=True, timeout=20).stdout
    version = re.match(r"v?(\d+)\.(\d+)\.(\d+)", shown)
    assert version is not None, shown
    if tuple(map(int, version.groups())) < (2, 6, 4):
        text = changed(text, **{"\n        request_buffers 1MiB": "\n buffer_requests\n max_buffer_size 1MiB"})
    (folder / "Caddyfile").write_text(text.replace("\n{\n", "\n{\n    admin off\n    auto_https off\n", 1))
    variables = [f"SITE=https://{NAME}:{port}", f"UPSTREAM=127.0.0.1:{web}"]
    return ["env", *variables, "caddy", "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


@dataclass(frozen=True, kw_only=True)
class Site:
    port: int
    folder: Path

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.folder / "cert.pem"))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60, source_address=(CLIENT, 0))
        return context.wrap_socket(plain, server_hostname=NAME)

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        with closing(http.client.HTTPConnection(NAME, timeout=60)) as connection:
            connection.sock = self.connect()
            yield connection

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, bytes]:
        """The answer. A connection that ends without one counts as 413: the proxy closed it with unread data."""
        sent = {name.replace("__", "-"): value for name, value in headers.items()}
        with self.connection() as connection:
            with suppress(ssl.SSLEOFError, ConnectionError):  # refused before all of it was sent
                connection.request(method, path, body, sent)
            try:
                answer = connection.getresponse()
                return answer.status, answer.headers, answer.read()
            except (ssl.SSLEOFError, ConnectionError):
                return 413, None, b""


PROXIES = {"nginx": nginx, "caddy": caddy}
#: gunicorn refuses a large body before all of it has arrived. A proxy that still sends then may not read the answer.
REFUSALS = {413, 502}


@pytest.fixture(params=PROXIES)
def site(request: pytest.FixtureRequest, installation: Installation, tmp_path: Path) -> Iterator[Site]:
    if shutil.which(request.param) is None or shutil.which("openssl") is None:
        pytest.skip(f"needs {request.param} and openssl, from Debian's packages of these names")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    make += ["-addext", f"subjectAltName=DNS:{NAME}", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("a"))
        origin = stack.enter_context(
            installation.serving(
                APP_ORIGIN=f"https://{NAME}", TRUSTED_PROXIES="1", PROXY_SCHEME_HEADER="X-Forwarded-Proto"
            )
        )
        command = PROXIES[request.param](tmp_path, port, urlsplit(origin).port or 0)
        proxy = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            found = Site(port=port, folder=tmp_path)
            wait_for(lambda: _answers(found) or proxy.poll() is not None)
            assert proxy.poll() is None, (tmp_path / "log").read_text()
            yield found
        finally:
            proxy.terminate()
            proxy.wait(20)
            print(f"--- {request.param}'s log ---\n{(tmp_path / 'log').read_text()}")


def _answers(site: Site) -> bool:
    try:
        return site.send("GET", "/healthz")[0] == 200
    except OSError:
        return False


def new_deployment(target: Target) -> str:
    return str(target.api("POST", "/api/v1/deployments", {"contentHash": HASH, "type": "MANAGED"})["id"])


def report(size: int) -> bytes:
    begin = (
        b'{"metadata":{"contentHash":"%s","packageVersion":"1","tasks":[],"sourceFiles":[{"contents":"' % HASH.encode()
    )
    return begin + b"x" * (size - len(begin) - 5) + b'"}]}}'


def test_the_shipped_proxy_file_passes_what_deploys_need_and_nothing_more(
    site: Site, installation: Installation, target: Target
) -> None:
    json_of_key = {"Content__Type": "application/json", "Authorization": f"Bearer {target.keys['prod']}"}

    # An upload of 64 MiB passes while 64 clients send a byte of theirs and wait.
    deployment = new_deployment(target)
    path = f"/api/v1/deployments/{deployment}/background-workers"
    with ExitStack() as held:
        for number in range(SLOW):
            slow = held.enter_context(closing(site.connect()))
            aim = ("/admin/login/", 100) if number % 2 else (path, 60 * MIB)
            head = f"POST {aim[0]} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {aim[1]}\r\n"
            slow.sendall(f"{head}Authorization: {json_of_key['Authorization']}\r\n\r\n{{".encode())
        assert site.send("GET", "/admin/login/")[0] == 200
        assert site.send("POST", path, report(64 * MIB), **json_of_key)[0] == 200
        assert site.send("GET", "/healthz")[0] == 200
    assert site.send("POST", path, report(64 * MIB + 1), **json_of_key)[0] in REFUSALS

    # A form of 2 MiB is refused.
    form = {"Content__Type": "application/x-www-form-urlencoded"}
    assert site.send("POST", "/admin/login/", b"a=" + b"x" * 2 * MIB, **form)[0] in REFUSALS

    # The answer to a finalize arrives while the work goes on.
    installation.sandbox.fault("latency", "ecr:*", seconds=1.0)
    with site.connection() as connection:
        headers = {name.replace("__", "-"): value for name, value in json_of_key.items()}
        body = json.dumps({"imageDigest": DIGEST})
        connection.request("POST", f"/api/v3/deployments/{deployment}/finalize", body, headers)
        answer = connection.getresponse()
        first = answer.read1().decode()
        assert answer.status == 200
        assert first.startswith("event: ping")
        assert "event: complete" not in first
        assert "event: error" not in first
    installation.sandbox.clear_faults()

    # No header moves a path or forges the client's address, and browsers get HSTS and secure cookies.
    assert site.send("GET", "/api/admin/login/", SCRIPT_NAME="/api")[0] == 404
    assert site.send("GET", "/healthz", SCRIPT_NAME="/evil")[0] == 200
    _, answered, page = site.send("GET", "/admin/login/", X__Forwarded__For="203.0.113.66", X__Forwarded__Proto="http")
    assert answered["Strict-Transport-Security"] == "max-age=2592000"
    assert "Secure" in answered["Set-Cookie"]
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.decode())
    assert token is not None
    fields = {"csrfmiddlewaretoken": token[1], "username": f"eve-{site.port}", "password": "wrong"}
    more = {"Cookie": answered["Set-Cookie"].partition(";")[0], "Referer": f"https://{NAME}/admin/login/"}
    forged = {"X__Forwarded__For": "203.0.113.66", "Forwarded": "for=203.0.113.66", "X__Real__IP": "203.0.113.66"}
    with closing(sqlite3.connect(installation.database, timeout=20)) as database, database:
        # Other tests share the installation, and from the 30th failure of unknown names on no line is written.
        database.execute("DELETE FROM deployments_auditentry WHERE action = 'log_in.user'")
    assert site.send("POST", "/admin/login/", urlencode(fields).encode(), **form, **more, **forged)[0] == 200
    with closing(sqlite3.connect(f"file:{installation.database}?mode=ro", uri=True)) as database:
        [[address]] = database.execute(
            "SELECT address FROM deployments_auditentry WHERE action = 'log_in.user' ORDER BY id DESC LIMIT 1"
        )
    assert address == CLIENT
