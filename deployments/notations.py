"""How the value of a setting is written: each notation reads a text and makes a value of it.

Pure: no environment, no files, no network. A text that cannot be used raises `Malformed`. Its sentences never quote a
value that may be a secret (D-no-secret). A sentence about a list of accounts, roles, platforms or AWS tags names the
wrong entry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from deployments import ecr_rules, images

#: `warn(message, hint)`: the value is used, and the operator should know something about it.
Warn = Callable[[str, str], None]


class Malformed(ValueError):
    """A value cannot be used: what is wrong with it, and what to write instead.

    In the hint `{name}` stands for the name of the variable; without a hint the setting's example is shown.
    """

    def __init__(self, message: str, hint: str = "", *, more: Iterable[Malformed] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.more = tuple(more)  # what else is wrong with the value


def _refuse(breaches: Iterable[ecr_rules.Breach], example: str = "") -> None:
    """Raise Malformed with all the breaches of ECR's rules, if there are any."""
    found = [Malformed(each.message, f"{each.hint} {example}".strip()) for each in breaches]
    if found:
        raise Malformed(found[0].message, found[0].hint, more=found[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Notation:
    """One way to write a value.

    `any_text`: releases before 0.2.0 accepted every text and worked with it, so a suspicious form (`suspicion`) is a
    warning and the text is used unchanged. In every other notation it is a problem.
    """

    words: str  # what the value is, for the table of docs/settings.md
    parse: Callable[[str, Warn], Any]
    unset: Any = None  # the value of a setting that has no default
    any_text: bool = False
    several_lines: bool = False  # a line break may stand in the value
    own_form: bool = False  # the parser itself calls `suspicion`


_QUOTES = "\"'`“”„‘’«"
_NO_QUOTES = "Take the quotes off: docker's --env-file and kubectl's --from-env-file keep them as a part of the value"


def suspicion(name: str, text: str, *, several_lines: bool = False) -> tuple[str, str] | None:
    """Why the text looks like a value that was pasted with something else: (sentence, hint). None if it does not.

    The same rule for all settings. The two sentences contain nothing of the text.
    """
    if text.startswith("\ufeff"):
        return (
            "The value begins with a byte order mark, a character that editors do not show.",
            "Save the file as UTF-8 without a byte order mark (BOM).",
        )
    if text.startswith(tuple(_QUOTES)):
        more = '; write each \\" inside the value as "' if '\\"' in text else ""
        return (
            "The value begins with a quote mark.",
            f"{_NO_QUOTES}{more}. In .env nothing may follow the closing quote, also no blank and no comment.",
        )
    if re.match(rf"((export|set|env|-e)\s+)?{re.escape(name)}(_FILE)?\s*[=:]", text, re.IGNORECASE):
        return (
            "The value begins with the name of the variable.",
            "Give only what stands after the first =.",
        )
    allowed = "\t\r\n" if several_lines else ""
    if any((ord(character) < 32 or ord(character) == 127) and character not in allowed for character in text):
        return (
            "The value contains a line break or another control character.",
            "Give the value on one line. A file must be UTF-8 text, not UTF-16.",
        )
    return None


def comment_after(text: str) -> tuple[str, str] | None:
    """As `suspicion`, for a notation that takes any text: a comment that became a part of the value."""
    if re.search(r"\s#(\s|$)", text):
        return (
            "The value contains a blank and a #, and all text after the = is the value.",
            "Remove the comment if the text after the # is one. If not, nothing has to be done.",
        )
    return None


# ------------------------------------------------------------------------------------------------------------- plain


def free_text(words: str = "text") -> Notation:
    """Any text."""
    return Notation(words=words, parse=lambda text, warn: text, any_text=True)


def pattern(words: str, regex: str, message: str, hint: str = "") -> Notation:
    """A text that the regular expression matches as a whole."""

    def parse(text: str, warn: Warn) -> str:
        if re.fullmatch(regex, text, re.ASCII) is None:
            raise Malformed(message, hint)
        return text

    return Notation(words=words, parse=parse)


def switch() -> Notation:
    """On or off."""

    def parse(text: str, warn: Warn) -> bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise Malformed("The value is neither on nor off.", "Write {name}=1 or {name}=0.")

    return Notation(words="`1` or `0`", parse=parse)


def whole(*, least: int, most: int, unit: str = "", into: Callable[[int], Any] = int) -> Notation:
    """A whole number. `unit`: its noun, for the documents; `into` makes the value of the number."""

    words = f"whole number of {unit}" if unit else "whole number"

    def parse(text: str, warn: Warn) -> Any:
        # isdecimal() and int() also accept digits of other scripts, so the value must be ASCII too.
        if text.isascii() and text.isdecimal() and len(text) <= 16 and least <= int(text) <= most:
            return into(int(text))
        raise Malformed(f"The value is not a {words} from {least:,} to {most:,}.")

    return Notation(words=words, parse=parse)


def milliseconds(*, least: int, most: int) -> Notation:
    """A duration."""
    return whole(least=least, most=most, unit="milliseconds", into=lambda number: timedelta(milliseconds=number))


def seconds(*, least: int, most: int) -> Notation:
    """A duration."""
    return whole(least=least, most=most, unit="seconds", into=lambda number: timedelta(seconds=number))


def minutes(*, least: int, most: int) -> Notation:
    """A duration."""
    return whole(least=least, most=most, unit="minutes", into=lambda number: timedelta(minutes=number))


def one_of(*words: str, into: Callable[[str], Any] = str) -> Notation:
    """One of the words, in any case of letters. `into` makes the value of the word in lower case."""

    def parse(text: str, warn: Warn) -> Any:
        if text.lower() in words:
            return into(text.lower())
        raise Malformed(f"The value is neither {' nor '.join(words)}.", f"Write {{name}}={words[0]}.")

    return Notation(words=" or ".join(f"`{word}`" for word in words), parse=parse)


def _parts(text: str) -> Iterator[str]:
    """The comma-separated parts without blanks around them. Empty parts (a trailing comma) are left out."""
    return (part.strip() for part in text.split(",") if part.strip())


def list_of(words: str, regex: str, noun: str, *, into: Callable[[tuple[str, ...]], Any] = tuple) -> Notation:
    """Comma-separated entries, each of which the regular expression matches as a whole. Repeated entries count once."""

    def parse(text: str, warn: Warn) -> Any:
        entries = tuple(dict.fromkeys(_parts(text)))
        for entry in entries:
            if re.fullmatch(regex, entry, re.ASCII) is None:
                raise Malformed(
                    f"“{entry[:40]}” is not {noun}.", "The entries are separated by commas, as in {name}={example}."
                )
        return into(entries)

    return Notation(words=words, parse=parse, unset=into(()), several_lines=True)


def host_names() -> Notation:
    """Comma-separated host names, as in Django's ALLOWED_HOSTS: also `*`, and `.example.com` with its subdomains."""

    def parse(text: str, warn: Warn) -> tuple[str, ...]:
        entries = tuple(_parts(text))
        if not all(re.fullmatch(r"\*|\.?[\w-]+(\.[\w-]+)*\.?|\[[0-9A-Fa-f:.]+\]", entry) for entry in entries):
            warn(
                "An entry is not a host name, so it admits no request.",
                "Write names without scheme, port and path, separated by commas: {name}=deploy.example.com.",
            )
        return entries

    return Notation(words="host names, comma-separated", parse=parse, unset=(), any_text=True, several_lines=True)


def keys() -> Notation:
    """Comma-separated keys of 32 characters or more."""

    def parse(text: str, warn: Warn) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(_parts(text)))
        if any(len(key) < 32 for key in found):
            raise Malformed(
                "A key is shorter than 32 characters.",
                "Make one: python -c 'import secrets; print(secrets.token_hex(32))'.",
            )
        return found

    return Notation(words="keys, comma-separated", parse=parse, unset=(), any_text=True, several_lines=True)


def texts() -> Notation:
    """Comma-separated texts, in any characters but a comma."""

    def parse(text: str, warn: Warn) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_parts(text)))

    return Notation(words="keys, comma-separated", parse=parse, unset=(), any_text=True, several_lines=True)


def sender() -> Notation:
    """The sender of mail. RFC 5322 lets it begin with a name in quotes: `"Registry Admin" <a@example.com>`."""

    def parse(text: str, warn: Warn) -> str:
        found = suspicion("EMAIL_FROM", text)
        if found and not re.fullmatch(r'"[^"]*"\s*<[^<>\s]+>', text):
            warn(*found)
        return text

    return Notation(words="mail address", parse=parse, own_form=True)


# ----------------------------------------------------------------------------------------------------- names and JSON


def origin() -> Notation:
    """A scheme, a host and optionally a port, and nothing else, as a browser writes it in its header Origin: the host
    in lower case, without the scheme's own port. Django's CSRF check compares the two texts.
    """

    def parse(text: str, warn: Warn) -> str:
        text = text.rstrip("/")
        try:
            parts = urlsplit(text)
            named = bool(parts.hostname) and parts.port != 0  # an invalid port raises
        except ValueError:
            named = False
        if not named or not re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?", text):
            raise Malformed(
                "The value is not an origin (scheme and host, no path: the CLI resolves some calls at the root).",
                "For example {name}=https://deploy.example.com.",
            )
        own_port = ":0*443$" if parts.scheme == "https" else ":0*80$"
        return re.sub(own_port, "", text.lower())

    return Notation(words="origin", parse=parse)


def registry_host() -> Notation:
    """A registry's host in lower case: host names ignore case, and we compare them."""

    def parse(text: str, warn: Warn) -> str:
        if not images.is_registry_host(text):
            raise Malformed("The value is not a registry host (host or host:port; no scheme, no path, no user).")
        if not re.search(r"[.:]", text) and text.lower() != "localhost":
            warn(
                "Docker takes a name without a dot and without a port for a user of Docker Hub, not for a host.",
                "Give the port too: {name}=registry:5000.",
            )
        return text.lower()

    return Notation(words="host or host:port", parse=parse)


def namespace() -> Notation:
    """The first part of a repository name."""

    def parse(text: str, warn: Warn) -> str:
        if not images.is_namespace(text):
            raise Malformed(
                "The value cannot begin a repository name (lower case letters, digits, . _ - and /).",
                "For example {name}=trigger.",
            )
        return text

    return Notation(words="lower case name", parse=parse)


def issuer() -> Notation:
    """The issuer of an OpenID provider: https, without query and fragment (OpenID Connect Discovery 1.0, section 2).

    Plain http is for a provider on this host only: the answer of the token endpoint is believed because of TLS.
    """

    def parse(text: str, warn: Warn) -> str:
        try:
            parts = urlsplit(text)
            named = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        except ValueError:
            named = False
        if not named or parts.scheme not in ("https", "http") or "?" in text or "#" in text or re.search(r"\s", text):
            raise Malformed("The value is not an issuer: an https address without query and fragment.")
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise Malformed("The issuer must be https: with http, somebody on the way could log in as anybody.")
        if text.rstrip("/").endswith("/.well-known/openid-configuration"):
            raise Malformed("The value is the address of the issuer's document, not the issuer itself.")
        return text

    return Notation(words="https address", parse=parse)


def text_by_text() -> Notation:
    """A JSON object of texts, as sorted pairs."""
    hint = "For example {name}={example} (in a shell, in single quotes), or the path of a file: {name}_FILE=/path."

    def parse(text: str, warn: Warn) -> tuple[tuple[str, str], ...]:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise Malformed("The value is not JSON.", hint) from None
        if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
            raise Malformed("The JSON is not an object whose values are texts.", hint)
        return tuple(sorted(document.items()))

    return Notation(words="JSON", parse=parse, unset=(), several_lines=True)


def hours(*, least: int, most: int) -> Notation:
    """A duration."""
    return whole(least=least, most=most, unit="hours", into=lambda number: timedelta(hours=number))


def days(*, least: int, most: int) -> Notation:
    """A duration."""
    return whole(least=least, most=most, unit="days", into=lambda number: timedelta(days=number))


def days_kept() -> Notation:
    """A duration of 30 days or more; 0: forever. Notifications look at rows of the last 30 days (`notify.news`)."""
    number = whole(least=0, most=36_500, unit="days", into=lambda number: timedelta(days=number))

    def parse(text: str, warn: Warn) -> Any:
        found = number.parse(text, warn)
        if timedelta() < found < timedelta(days=30):
            raise Malformed("The value is less than 30 days.", "Give 30 or more, or 0 to keep the rows forever.")
        return found

    return Notation(words="days, 30 or more; 0: forever", parse=parse)


def json_object(breaches: Callable[[str], Iterable[ecr_rules.Breach]] = lambda text: ()) -> Notation:
    """A JSON object, kept as the operator wrote it. `breaches` gives what ECR refuses of it."""
    hint = "For example {name}={example} (in a shell, in single quotes), or the path of a file: {name}_FILE=/path."

    def parse(text: str, warn: Warn) -> str:
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:  # the sentence has the place, not the text
            raise Malformed(f"Not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", hint) from None
        except (RecursionError, ValueError):
            raise Malformed("Not JSON that can be read: too deep, or a number too long.", hint) from None
        if not isinstance(document, dict):
            raise Malformed("The JSON is not an object.", hint)
        _refuse(breaches(text))
        return text

    return Notation(words="JSON", parse=parse, several_lines=True)


def aws_tags() -> Notation:
    """AWS tags as sorted pairs, in one of four notations (`read_tags`)."""

    def parse(text: str, warn: Warn) -> tuple[tuple[str, str], ...]:
        tags: dict[str, str] = {}
        for key, value in read_tags(text):
            if not key:
                warn("An entry without a key was skipped.", "An entry has the form key=value: {name}=team=platform.")
                continue
            if re.search(r"\s[^\s=]+=", value) or (not value and re.search(r"\S:\s*\S", key)):
                warn(
                    "The value or the key of one tag looks like several tags.",
                    "Tags are separated by commas and have an =: {name}=team=platform,managed-by=registry-admin.",
                )
            tags[key] = value
        _refuse(ecr_rules.tag_breaches(tags.items()), "For example {name}=team=platform.")
        return tuple(sorted(tags.items()))

    return Notation(words="`key=value`, comma-separated", parse=parse, unset=(), several_lines=True)


_SHORTHAND = re.compile(r"Key=(?P<key>[^,]*),\s*Value=(?P<value>[^,]*?)(?:[\s,]+(?=Key=)|\s*$)", re.IGNORECASE)


def read_tags(text: str) -> list[tuple[str, str]]:
    """(key, value) of each entry. Raises Malformed for a notation that is none of these four:

    - `team=platform,managed-by=x`, ours; a key without = has an empty value
    - `Key=team,Value=platform Key=env,Value=prod`, the AWS CLI's shorthand
    - `[{"Key": "team", "Value": "platform"}]`, the AWS CLI's JSON
    - `{"team": "platform"}`, a JSON object, as Terraform and CDK write tags
    """
    wrong = "Write key=value, comma-separated: {name}=team=platform,managed-by=registry-admin."
    if text.startswith(("[", "{")):
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise Malformed("The value begins as JSON and is not JSON.", wrong) from None
        if isinstance(document, dict):
            document = [{"Key": key, "Value": value} for key, value in document.items()]
        if not isinstance(document, list):
            raise Malformed("The JSON is neither an object nor a list of tags.", wrong)
        pairs = []
        for entry in document:
            named = {str(key).lower(): value for key, value in entry.items()} if isinstance(entry, dict) else {}
            if set(named) - {"value"} != {"key"} or not all(isinstance(value, str) for value in named.values()):
                raise Malformed("An entry of the JSON is not a tag with the texts Key and Value.", wrong)
            pairs.append((named["key"], named.get("value", "")))
        return pairs
    if re.match(r"Key=[^,]*,\s*Value=", text, re.IGNORECASE):
        found = [(match["key"].strip(), match["value"].strip()) for match in _SHORTHAND.finditer(text)]
        if _SHORTHAND.sub("", text).strip():
            raise Malformed(
                "The value begins as the AWS CLI's shorthand for tags, and a part of it has another form.", wrong
            )
        return found
    pieces = (part.partition("=") for part in _parts(text))
    return [(key.strip(), value.strip()) for key, _, value in pieces]
