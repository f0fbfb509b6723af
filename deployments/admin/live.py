"""Live pages: a page that is open renews itself, by polls of its own address (D-live-pages).

`static/admin_theme/live.js` sends the polls: GET with the header X-Live. The answer is the same page, rendered by the
same templates, without messages; its ETag leaves out the words of times, which the script renews by itself. So a poll
of an unchanged page is answered by 304. A poll writes nothing, and does not extend the session.
"""

from __future__ import annotations

import hashlib
import re

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.cache import get_conditional_response

HEADER = "X-Live"  # also in `deployments.api.middleware`, which writes the line of a poll at DEBUG

#: In place of the CSRF token, which differs in each answer. The script keeps the token that the page has.
KEPT = "kept"
_WORDS_OF_TIME = re.compile(rb"(<time [^>]*data-live=[^>]*>)[^<]*")


def is_poll(request: HttpRequest) -> bool:
    """Whether the script of an open page asks, not a person."""
    return request.method == "GET" and HEADER in request.headers


def answer(request: HttpRequest, page: TemplateResponse) -> HttpResponse:
    """The page for a person; for a poll of a live page, the page as its script needs it, or 304.

    A page is live if its context has `live`: true while something runs, false while nothing does.
    """
    context = page.context_data or {}
    if "live" not in context or not is_poll(request):
        return page
    # Messages stay for the next page that a person opens.
    page.context_data = {**context, "csrf_token": KEPT, "messages": ()}
    page.render()
    digest = hashlib.sha256(_WORDS_OF_TIME.sub(rb"\1", page.content)).hexdigest()
    page["ETag"] = etag = f'"{digest}"'
    short = get_conditional_response(request, etag=etag, response=page) or page
    short[HEADER] = "1"  # the request's line goes to DEBUG (deployments.api.middleware)
    return short
