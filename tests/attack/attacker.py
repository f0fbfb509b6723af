"""A client whose requests are counted, and of which none may end in a 500."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

from django.contrib.auth.models import User
from django.test import Client

from deployments.access import sessions


@dataclass(slots=True, kw_only=True)
class Sent:
    """How many requests were sent, by kind."""

    kind: str
    counts: dict[str, int] = field(default_factory=dict)

    def count(self) -> int:
        """Count one request. Returns its number."""
        self.counts[self.kind] = self.counts.get(self.kind, 0) + 1
        return self.counts[self.kind]


class Attacker(Client):
    """Each request comes from an address of its own, so that no limit of an address ends an attack early."""

    def __init__(self, sent: Sent, **options: Any) -> None:
        super().__init__(raise_request_exception=False, **options)
        self._sent = sent

    def log_in(self, person: User) -> SimpleCookie:
        """A session of this person that began now. Returns its cookies."""
        self.force_login(person)
        session = self.session
        session[sessions.LOG_IN_AT] = time.time()
        session.save()
        return copied(self.cookies)

    def request(self, **request: Any) -> Any:
        number = self._sent.count()
        request["REMOTE_ADDR"] = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        response = super().request(**request)
        assert response.status_code != 500, f"{request['REQUEST_METHOD']} {request['PATH_INFO']}"
        return response


def copied(cookies: SimpleCookie) -> SimpleCookie:
    """The same cookies for another request, whose answer may delete them."""
    return SimpleCookie({name: morsel.value for name, morsel in cookies.items()})
