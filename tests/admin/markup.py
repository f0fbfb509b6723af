"""Reads a page the way a strict policy and a screen reader do, far enough for the tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


@dataclass
class Page:
    headings: list[int] = field(default_factory=list)
    inline: list[str] = field(default_factory=list)  # what style-src 'self'; script-src 'self' forbids
    controls: list[dict[str, str]] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    forms: list[dict[str, str]] = field(default_factory=list)
    tokens: int = 0
    links: list[str] = field(default_factory=list)
    assets: list[str] = field(default_factory=list)
    images_without_text: int = 0
    ids: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self.labels_open = 0

    def handle_starttag(self, tag: str, pairs: list[tuple[str, str | None]]) -> None:
        page, values = self.page, {name: value or "" for name, value in pairs}
        if tag[0] == "h" and tag[1:] in {"1", "2", "3", "4", "5", "6"}:
            page.headings.append(int(tag[1:]))
        if tag == "style" or (tag == "script" and "src" not in values and values.get("type") != "application/json"):
            page.inline.append(f"<{tag}>")
        page.inline += [f"{tag} {name}" for name in values if name == "style" or name.startswith("on")]
        if "id" in values:
            page.ids.append(values["id"])
        if tag == "label":
            self.labels_open += 1
            page.labels.add(values.get("for", ""))
        if tag in {"input", "select", "textarea"} and values.get("type") not in {"hidden", "submit"}:
            page.controls.append({**values, "inside": "label" if self.labels_open else ""})
        if tag == "form":
            page.forms.append(values)
        if tag == "input" and values.get("name") == "csrfmiddlewaretoken":
            page.tokens += 1
        if tag == "a":
            page.links.append(values.get("href", ""))
        if tag in {"script", "img"} or (tag == "link" and values.get("rel") in {"stylesheet", "icon"}):
            page.assets.append(values.get("src") or values.get("href", ""))
        if tag == "img" and "alt" not in values:
            page.images_without_text += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self.labels_open -= 1


def read(html: str) -> Page:
    reader = _Reader()
    reader.feed(html)
    return reader.page
