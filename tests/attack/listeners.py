"""Servers that a hostile operator of another service might run: they repeat what they got, and refuse it."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Mail(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self._say("220 mail.example ESMTP")
        for line in self.rfile:
            self.server.seen.append(line.decode(errors="replace").strip())  # type: ignore[attr-defined]
            verb = line[:4].upper()
            if verb == b"EHLO":
                self._say("250-mail.example\r\n250 AUTH PLAIN")
            elif verb == b"QUIT":
                self._say("221 bye")
                return
            else:
                self._say(f"535 refused: {line.decode(errors='replace').strip()}")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        answer = f"{self.path}\n{self.headers}\n".encode() + body
        self.send_response(500, self.path)
        self.send_header("X-Path", self.path)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def listening() -> Iterator[tuple[int, int, list[str]]]:
    """(port of a mail server, port of a receiver of webhooks, everything that was sent to them)."""
    seen: list[str] = []
    mail = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Mail)
    hook = ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    for server in (mail, hook):
        server.daemon_threads = True
        server.seen = seen  # type: ignore[union-attr]
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield mail.server_address[1], hook.server_address[1], seen
    finally:
        for server in (mail, hook):
            server.shutdown()
            server.server_close()
