"""What axe, a narrow window and a keyboard say of a page that a browser shows."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Page

from tests.browser.served import DESK, PHONE

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
#: The rules of axe's category “cat.color”. The dark scheme changes nothing else: `theme.css` has its colours by
#: `light-dark()`.
COLOURS = ["color-contrast", "link-in-text-block"]
#: What a keyboard must be able to reach, and what looks as if it could be clicked without being one of these. The bars
#: of a chart are for a mouse; the table below it has the same links.
UNREACHABLE = """
() => [...document.querySelectorAll(
    'a[href]:not(.chart svg a), button, input:not([type=hidden]), select, textarea, summary')]
    .filter(each => each.tabIndex < 0 && !each.disabled && each.offsetParent !== null)
    .concat([...document.querySelectorAll('[onclick], [role=button]:not(button):not(a)')])
    .map(each => each.outerHTML.slice(0, 120))
"""
#: Tables of which a phone shows only a part.
SIDEWAYS = """
() => [...document.querySelectorAll('.results')].filter(each => each.scrollWidth > each.clientWidth + 1)
    .map(each => each.outerHTML.slice(0, 120))
"""


def nodes(page: Page, axe: str, rules: list[str] | None = None) -> list[str]:
    """What axe finds, one line for each node: by `rules`, else by all rules of TAGS. Evaluated from outside the page,
    so its policy is no obstacle.
    """
    if not page.evaluate("'axe' in window"):  # a document that was looked at before has it
        page.evaluate(axe)
    only = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": TAGS}
    found: Any = page.evaluate("only => axe.run(document, { runOnly: only, resultTypes: ['violations'] })", only)
    return [
        f"{violation['id']}: {node['html'][:160]} {json.dumps(node['any'][:1])[:200]}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def check(page: Page, axe: str) -> None:
    page.emulate_media(color_scheme="dark")
    assert nodes(page, axe, COLOURS) == []
    page.emulate_media(color_scheme="light")
    assert nodes(page, axe) == []
    assert page.evaluate(UNREACHABLE) == []
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) == 0
    assert page.evaluate(SIDEWAYS) == []
    page.set_viewport_size({"width": DESK[0], "height": DESK[1]})
