"""The URLs of layers, which at AWS lead to S3: signed, valid for an hour, with ranges of bytes, for GET only.

GetDownloadUrlForLayer returns such a URL, and the registry answers a GET of a layer with a redirect to one
(https://github.com/open-policy-agent/opa/issues/6580). Here it leads to the sandbox itself, so a client that sends its
log-in along is not refused: S3 refuses it (same issue). As at S3, a header with several ranges gets the whole layer.
"""

from __future__ import annotations

import re

from sandbox.content import IN_MEMORY, Content
from sandbox.ecr_tokens import Tokens
from sandbox.server import Request, Response
from sandbox.store import Repository, Store

URL_SECONDS = 3600
PATH = "/_layers/"
RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


class LayerUrls:
    def __init__(self, store: Store, tokens: Tokens) -> None:
        self._store, self._tokens = store, tokens

    def path(self, repository: Repository, digest: str) -> str:
        """The path of the URL of a layer."""
        ticket = {
            "layer": [repository.account, repository.region, repository.name, digest],
            "expires": self._store.now() + URL_SECONDS,
        }
        return f"{PATH}{self._tokens.sign(ticket)}"

    def answer(self, request: Request) -> Response:
        """The layer of a URL, or the part of it that the request's Range names; 403 if the URL is not valid."""
        ticket = self._tokens.verify(request.path.removeprefix(PATH)) or {}
        if request.method != "GET" or "layer" not in ticket or ticket["expires"] <= self._store.now():
            return Response(403)
        account, region, name, digest = ticket["layer"]
        repository = self._store.registry(account, region).repositories.get(name)
        content = repository.layers.get(digest) if repository else None
        return Response(403) if content is None else _part(content, request.headers.get("range", ""))


def _part(content: Content, wanted: str) -> Response:
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    start, stop, status = 0, content.size, 200
    match = RANGE.fullmatch(wanted)
    if match and (match[1] or match[2]):
        if match[1]:
            start, stop = int(match[1]), min(int(match[2] or stop) + 1, stop)
        else:  # the last bytes
            start = max(stop - int(match[2]), 0)
        if start >= stop:
            return Response(416, headers={"Content-Range": f"bytes */{content.size}"})
        headers["Content-Range"], status = f"bytes {start}-{stop - 1}/{content.size}", 206
    if stop - start <= IN_MEMORY:
        return Response(status, content.read(start, stop), headers)
    headers["Content-Length"] = str(stop - start)
    return Response(status, headers=headers, large=content.pieces(start, stop))
