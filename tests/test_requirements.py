"""What is installed: every package pinned and hashed, the same in all files; and the audit of published advisories."""

from __future__ import annotations

import json
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.advisories import ROOT, audit

NAMES = ["requirements", "requirements-sandbox", "requirements-dev"]
REQUIREMENT = re.compile(r"([\w.-]+)==([\w.!]+)(?: ; ([^\\]+))? \\((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)")
PIN = re.compile(r"([\w.-]+)(?:\[[\w,-]+\])?==([\w.!]+)")


def same(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def written(name: str) -> dict[str, tuple[str, str, frozenset[str]]]:
    """By package: version, marker and hashes, of a file that `make requirements` wrote."""
    return {
        same(found[1]): (found[2], (found[3] or "").strip(), frozenset(re.findall(r"[0-9a-f]{64}", found[4])))
        for found in REQUIREMENT.finditer((ROOT / f"{name}.txt").read_text())
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_line_is_a_pinned_package_with_hashes_and_no_file_names_an_index(name: str) -> None:
    text = (ROOT / f"{name}.txt").read_text()
    rest = REQUIREMENT.sub("", text)

    assert written(name)
    assert [line for line in rest.splitlines() if line.strip() and not line.lstrip().startswith("#")] == []
    assert "://" not in text + (ROOT / f"{name}.in").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_written_file_has_the_pins_of_the_file_that_people_edit(name: str) -> None:
    lines = [
        line for line in (ROOT / f"{name}.in").read_text().splitlines() if line and not line.startswith(("#", "-"))
    ]
    edited = {same(found[1]): found[2] for line in lines if (found := PIN.fullmatch(line))}

    assert len(edited) == len(lines), "each line is NAME==VERSION"
    assert edited == {package: written(name).get(package, ("",))[0] for package in edited}, "run: make requirements"


def test_the_files_agree_about_each_package_that_they_share() -> None:
    production, sandbox, development = (written(name) for name in NAMES)

    assert production.items() <= sandbox.items() <= development.items()


def test_every_command_that_installs_the_requirements_demands_the_hashes() -> None:
    paths = [ROOT / "Makefile", *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("sandbox/**/*.py")]
    commands = [
        line.strip()
        for path in paths
        for line in path.read_text().splitlines()
        if re.search(r"pip install\b.*-r ", line)
    ]

    assert len(commands) >= 3
    assert [command for command in commands if "--require-hashes" not in command] == []


class Advisories(BaseHTTPRequestHandler):
    """OSV with one advisory, of the package `example`."""

    advisory = {
        "id": "GHSA-0000", "modified": "2026-01-01T00:00:00Z", "summary": "Reads any file",
        "affected": [{"package": {"ecosystem": "PyPI", "name": "example"}, "versions": ["1.0"]}],
    }  # fmt: skip

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        self.answer(
            {"results": [{"vulns": [self.advisory]} if q["package"]["name"] == "example" else {} for q in queries]}
        )

    def do_GET(self) -> None:
        self.answer(self.advisory)

    def answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Advisories)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the packages `example` and `other`, which uv takes instead of an index."""
    for name in ("example", "other"):
        with zipfile.ZipFile(tmp_path / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(
                f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    for variable in ("UV_NO_CACHE", "UV_NO_CONFIG"):
        monkeypatch.setenv(variable, "1")
    return tmp_path


def requirements(folder: Path, *packages: str) -> Path:
    path = folder / "requirements.txt"
    path.write_text("# pinned\n" + "".join(f"{package} \\\n    --hash=sha256:{'0' * 64}\n" for package in packages))
    return path


def test_a_known_advisory_about_a_pinned_package_fails_the_audit_with_what_to_do(
    offline: Path, service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(requirements(offline, "other==1.0"), "--no-index", "--service-url", service) == 0
    assert "no known advisory names one of the 1 pinned packages" in capsys.readouterr().out

    assert audit(requirements(offline, "other==1.0", "example==1.0"), "--no-index", "--service-url", service) == 1
    printed = capsys.readouterr().out
    assert "GHSA-0000: Reads any file" in printed
    assert "make requirements" in printed


@pytest.mark.parametrize("seconds", [90, 0.001])
def test_an_audit_whose_service_cannot_be_reached_says_that_it_is_skipped(
    offline: Path, capsys: pytest.CaptureFixture[str], seconds: float
) -> None:
    closed = "http://127.0.0.1:9"  # the port that discards; nothing listens on it here

    assert audit(requirements(offline, "example==1.0"), "--no-index", "--service-url", closed, seconds=seconds) == 0
    assert "advisory audit skipped: the advisory service" in capsys.readouterr().out


def test_an_audit_that_cannot_work_is_a_failure_and_not_a_skip(
    offline: Path, service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(requirements(offline, "nowhere==1.0"), "--no-index", "--service-url", service) == 1
    assert "could not audit" in capsys.readouterr().out
