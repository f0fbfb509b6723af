"""DATABASE_URL and EMAIL_URL as values.

Pure. Both URLs contain a password, so this module has three rules (D-no-secret):

- A sentence of `Malformed` or `warn` contains nothing of the URL, except the name of an option of its query, and that
  only where the name cannot be a part of a password.
- A URL that can be read in two ways is refused: a password with an unescaped `/` or `?` would put its rest into the
  host, the database name or an option, and drivers print those.
- No library parses the URL. django-environ did, and printed URLs that it did not understand as a Python warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, unquote_plus

from deployments.notations import Malformed, Notation, Warn

_DATABASE_HINT = (
    "For example {name}=postgres://user:password@host:5432/registry_admin or {name}=sqlite:////data/db.sqlite3."
)
_MAIL_HINT = "For example {name}=smtp+tls://user:password@mail.example.com:587."
_AT = "An @ stands after the first / or ?, so the user name or the password is not percent-encoded."
_ENCODE = (
    "Percent-encode the user name and the password: / is %2F, ? is %3F, # is %23, @ is %40, : is %3A, % is %25. This "
    "prints a text so encoded: "
    "python -c 'import getpass, urllib.parse as u; print(u.quote(getpass.getpass(), safe=str()))'."
)

#: The connection options of PostgreSQL's libpq 18 (its documentation, “Parameter Key Words”). A test compares them with
#: the library that is installed.
LIBPQ_OPTIONS = frozenset(
    {
        "application_name", "channel_binding", "client_encoding", "connect_timeout", "dbname",
        "fallback_application_name", "gssdelegation", "gssencmode", "gsslib", "host", "hostaddr", "keepalives",
        "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname", "load_balance_hosts",
        "max_protocol_version", "min_protocol_version", "oauth_client_id", "oauth_client_secret", "oauth_issuer",
        "oauth_scope", "options", "passfile", "password", "port", "replication", "require_auth", "requirepeer",
        "scram_client_key", "scram_server_key", "service", "ssl_max_protocol_version", "ssl_min_protocol_version",
        "sslcert", "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslkey", "sslkeylogfile", "sslmode",
        "sslnegotiation", "sslpassword", "sslrootcert", "sslsni", "target_session_attrs", "tcp_user_timeout", "user",
    }
)  # fmt: skip
#: Options of Django's PostgreSQL backend and of psycopg.
_DRIVER_OPTIONS = frozenset({"assume_role", "isolation_level", "prepare_threshold"})
_NUMBERS = {
    "conn_max_age", "connect_timeout", "isolation_level", "keepalives", "keepalives_count", "keepalives_idle",
    "keepalives_interval", "prepare_threshold", "tcp_user_timeout",
}  # fmt: skip
_OFF = ("0", "false", "no", "off")
_WORDS = {
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "load_balance_hosts": ("disable", "random"),
    "sslcertmode": ("disable", "allow", "require"),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
#: Options of other clients that libpq does not know, in lower case. They are ignored, with a warning.
_OTHER_CLIENTS = frozenset(
    {  # Prisma; JDBC; node-postgres; pgx; SQLAlchemy and asyncpg; Rails; Django
        "connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size", "single_use_connections",
        "sslaccept", "sslidentity", "applicationname", "connecttimeout", "logintimeout", "sockettimeout",
        "preparethreshold", "tcpkeepalive", "sslfactory", "stringtype", "rewritebatchedinserts", "binarytransfer",
        "assumeminserverversion", "idletimeoutmillis", "connectiontimeoutmillis", "max", "uselibpqcompat",
        "binary_parameters", "default_query_exec_mode", "pool_max_conns", "pool_min_conns", "pool_max_conn_lifetime",
        "pool_max_conn_idle_time", "command_timeout", "max_overflow", "pool_recycle", "pool_size",
        "prepared_statement_cache_size", "checkout_timeout", "encoding", "pool", "prepared_statements",
        "reaping_frequency", "timeout", "atomic_requests", "autocommit", "conn_health_checks",
    }
)  # fmt: skip
_SCHEMES: dict[str, Literal["postgresql", "sqlite"]] = {
    "postgres": "postgresql", "postgresql": "postgresql", "pgsql": "postgresql", "psql": "postgresql",
    "sqlite": "sqlite",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Where the database is."""

    engine: Literal["postgresql", "sqlite"]
    name: str  # of SQLite: a path, or :memory:
    user: str = ""
    password: str = field(default="", repr=False)
    host: str = ""  # several: comma-separated; a folder: of a Unix socket
    port: str = ""  # as `host`
    options: tuple[tuple[str, str | int], ...] = field(default=(), repr=False)  # of libpq, Django and psycopg
    server_side_cursors: bool = True  # False: a pooler gives each transaction another connection
    conn_max_age: int | None = None  # seconds for which a thread keeps its connection; None: the default


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """The server that takes our mail."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False  # STARTTLS
    ssl: bool = False  # TLS from the first byte


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    scheme: str
    user: str
    password: str = field(repr=False)
    address: str  # host, host:port, or several of them, comma-separated; percent-encoded
    path: str  # with its first slash; percent-encoded
    query: str = field(repr=False)
    fragment: bool  # a # followed the path or the query


def _split(text: str, schemes: Mapping[str, object], hint: str) -> _Parts:
    """The parts of a URL. Raises Malformed."""
    # 0.1.0 read scheme:/path as scheme:///path.
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(?:(?=/[^/])|//)", text)
    scheme = match[1].lower() if match else ""
    if match is None or scheme not in schemes:
        raise _not_a_url(text, schemes, hint)
    rest = text[match.end() :]
    end = min((rest.index(mark) for mark in "/?" if mark in rest), default=len(rest))
    authority, rest = rest[:end], rest[end:]  # a # in the password is taken as it is
    rest, hash_mark, after = rest.partition("#")
    path, _, query = rest.partition("?")
    # An @ may stand in the path of a file.
    no_login = schemes[scheme] == "sqlite" and not authority and not re.search(r":[^/]*@", path)
    if ("@" in path + after or ("@" in query and "@" not in authority)) and not no_login:
        raise Malformed(_AT, _ENCODE)
    login, _, address = authority.rpartition("@")
    user, _, password = login.partition(":")
    parts = _Parts(
        scheme=scheme,
        user=unquote(user),
        password=unquote(password),
        address=address,
        path=path.rstrip(),
        query=query.strip(),
        fragment=bool(hash_mark),
    )
    if re.search(r"[\x00-\x1f\x7f]", text) or "\0" in unquote(text):
        raise Malformed("The URL contains a line break, a NUL (%00) or another control character.", hint)
    return parts


def _not_a_url(text: str, schemes: Iterable[str], hint: str) -> Malformed:
    words = ", ".join(f"{scheme}://" for scheme in schemes)
    if text.lower().startswith("jdbc:"):
        return Malformed(
            "The value is a JDBC address.", "Remove jdbc: and put user:password@ in front of the host. " + hint
        )
    if re.search(rf"[\s=\"'](?:{'|'.join(re.escape(scheme) for scheme in schemes)})://", text, re.IGNORECASE):
        return Malformed("Other text stands in front of the URL.", "Give the URL alone, without a command. " + hint)
    if re.match(r"\s*[a-z_]+\s*=", text):
        return Malformed("The value has the form key=value of libpq, which is not a URL.", hint)
    return Malformed(f"The value does not begin with one of {words}.", hint)


def _host_and_port(address: str, hint: str) -> tuple[str, str]:
    """(hosts, ports), comma-separated. An IPv6 address loses its brackets. Raises Malformed."""
    hosts, ports = [], []
    for each in address.split(","):
        match = re.fullmatch(
            r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[^:\[\]@]*))(?::(?P<port>\d{0,5}))?", each, re.ASCII
        )
        host = "" if match is None else match["six"] or unquote(match["host"] or "")
        host = host if host.startswith("/") else host.lower()
        port = "" if match is None else match["port"] or ""
        if match is None or not re.fullmatch(r"[\w.:%-]*|/[\w./ -]*", host) or (port and not 0 < int(port) <= 65_535):
            raise Malformed("The URL has no usable host or port after the @ (or after ://).", f"{hint} {_ENCODE}")
        hosts.append(host)
        ports.append(port)
    return ",".join(hosts), ",".join(ports) if any(ports) else ""


# ---------------------------------------------------------------------------------------------------------- database


def parse_database_url(text: str, warn: Warn) -> Database:
    """The database that a URL names. Raises Malformed.

    PostgreSQL: `postgres://user:password@host:port/name?option=value`, several hosts separated by commas, a socket's
    folder as the host (`%2Frun%2Fpostgresql`) or before the name (`postgres:////run/postgresql/name`).
    SQLite: `sqlite:///relative`, `sqlite:////absolute`, `sqlite://:memory:`.
    """
    if re.fullmatch(r"sqlite://(/?:memory:)?/?", text, re.IGNORECASE):
        return Database(engine="sqlite", name=":memory:")
    parts = _split(text, _SCHEMES, _DATABASE_HINT)
    if parts.fragment:
        warn("The text after the # of the URL is ignored.", "Remove it. In a name, write %23 for #.")
    if _SCHEMES[parts.scheme] == "sqlite":
        return _sqlite(parts, warn)
    name = unquote_plus(parts.path[1:])
    host, port = _host_and_port(parts.address, _DATABASE_HINT)
    if len(ports := [each for each in port.split(",") if each]) == 1 and "," in port:
        warn(
            "The URL has several hosts and one port, which counts for all of them.",
            "Write the port after each host: {name}=postgres://user:password@host1:5432,host2:5432/registry_admin.",
        )
        [port] = ports
    if name.startswith("/"):  # postgres:////run/postgresql/name
        host, _, name = name.rpartition("/")
    if not name:
        raise Malformed("The URL has no database name after the host.", f"{_DATABASE_HINT} {_ENCODE}")
    options, cursors, age = _options(parts, warn)
    name = str(options.pop("dbname", name))  # as libpq and 0.1.0 read it
    taken = {key: str(options.pop(key)) for key in ("user", "password", "host", "port") if key in options}
    return Database(
        engine="postgresql",
        name=name,
        user=parts.user or taken.get("user", ""),
        password=parts.password or taken.get("password", ""),
        host=host or taken.get("host", ""),
        port=port or taken.get("port", ""),
        options=tuple(options.items()),
        server_side_cursors=cursors,
        conn_max_age=age,
    )


def _sqlite(parts: _Parts, warn: Warn) -> Database:
    if parts.address or parts.user or parts.password:
        warn(
            "The URL of an SQLite file has no host, so the text between // and the next / is ignored.",
            "Write three slashes for a relative path and four for an absolute one: {name}=sqlite:////data/db.sqlite3.",
        )
    if parts.query:
        warn("Options of an SQLite URL have no effect.", "Remove the text from the ? on.")
    return Database(engine="sqlite", name=unquote_plus(parts.path[1:]) or ":memory:")


def _options(parts: _Parts, warn: Warn) -> tuple[dict[str, str | int], bool, int | None]:
    """(options of libpq, Django and psycopg; whether cursors on the server may be used; conn_max_age)."""
    options: dict[str, str | int] = {}
    schemas, cursors, age = "", True, None
    # A name is shown only if it cannot belong to a password: the login ended before it, and the query has none.
    login_is_known = bool(parts.user or parts.password) or ":" not in parts.address
    may_be_named = login_is_known and not re.search(r"@|pass|secret|key", parts.query, re.IGNORECASE)
    for number, piece in enumerate(parts.query.split("&"), 1):
        written, value = (unquote_plus(text) for text in piece.partition("=")[::2])
        option = written.lower()
        if "@" in piece and option not in LIBPQ_OPTIONS:
            raise Malformed(_AT, _ENCODE)
        if not value or (option == "replication" and value.lower() in _OFF):
            continue
        if option in ("schema", "currentschema"):
            schemas = schemas or _search_path(value)
        elif option == "pgbouncer":
            cursors = cursors and value.lower() in _OFF
            warn(
                "pgbouncer is an option of Prisma. Here it switches the cursors on the server off, for a pooler.",
                "disable_server_side_cursors=true does the same without this warning.",
            )
        elif option == "disable_server_side_cursors":
            cursors = cursors and value.lower() in _OFF
        elif option == "conn_max_age":
            age = max(0, int(_value(option, value)))
        elif option == "server_side_binding":
            options.setdefault(option, value.lower() not in _OFF)
        elif option == "ssl" and value.lower() in ("true", "1", "require"):  # as libpq's own URLs: sslmode=require
            options.setdefault("sslmode", "require")
        elif option == "requiressl" and value in ("0", "1"):  # as libpq reads it
            options.setdefault("sslmode", "require" if value == "1" else "prefer")
        elif option in LIBPQ_OPTIONS - {"replication"} | _DRIVER_OPTIONS:
            options.setdefault(option, _value(option, value))
        elif option in _OTHER_CLIENTS or option == "ssl":
            more = " For an encrypted and verified connection write sslmode=verify-full." if "ssl" in option else ""
            warn(f"The option {option} is one of another client, and has no effect here.", f"Remove it.{more}")
        else:
            shown = (
                f"the option {written}"
                if may_be_named and re.fullmatch(r"\w{1,40}", written, re.ASCII)
                else f"option {number}"
            )
            raise Malformed(
                f"PostgreSQL's client does not know {shown} of the URL.",
                f"Remove the option from the text after the ?. If the ? belongs to the password: {_ENCODE}",
            )
    # A pooler may refuse `options` (PgBouncer before 1.20), and public is in the search path of a new database anyway.
    if schemas and (cursors or schemas != "public"):
        options["options"] = f"{options.get('options', '')} -c search_path={schemas}".strip()
    return options, cursors, age


def _search_path(value: str) -> str:
    """The schemas as a value of PostgreSQL's search_path. Prisma and JDBC take names as they are written."""
    names = [name.strip() for name in value.split(",")]
    if not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$-]{0,62}", name) for name in names):
        raise Malformed(
            "The option schema does not name a schema (letters, digits, _ and -).", "For example schema=public."
        )
    return ",".join(name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else f'"{name}"' for name in names)


def _value(option: str, value: str) -> str | int:
    if option in _NUMBERS:
        match = re.fullmatch(r"\s*([+-]?[0-9]{1,9})(\.0+)?\s*", value)
        if match is None:
            raise Malformed(f"The option {option} of the URL is not a whole number.", f"For example {option}=10.")
        return int(match[1])
    if option in _WORDS and value not in _WORDS[option]:
        raise Malformed(f"The option {option} of the URL has a value that PostgreSQL's client does not know.",
                        f"Write one of {', '.join(_WORDS[option])}.")  # fmt: skip
    return value


# -------------------------------------------------------------------------------------------------------------- mail

# Python's smtplib encodes a log-in as ASCII, and its exception quotes what it cannot encode.
_NO_ASCII = "Log-ins to mail servers are sent as ASCII: choose another password for this account."
_NO_MAIL = "so no mail is sent."
_MAIL_SCHEMES = {"smtp": 25, "smtp+tls": 587, "smtp+ssl": 465, "smtps": 465}


def parse_mail_url(text: str, warn: Warn) -> MailServer | None:
    """The mail server of `smtp+tls://user:password@host:port` (STARTTLS), `smtp+ssl://` or `smtps://` (TLS from the
    first byte), `smtp://` (no TLS). Raises Malformed.

    None, with a warning, where 0.1.0 started and could send no mail: deploys need no mail (D-upgrades-start).
    """
    parts = _split(text, _MAIL_SCHEMES, _MAIL_HINT)
    host, port = _host_and_port(parts.address, _MAIL_HINT)
    if not host:
        raise Malformed("The URL has no host.", _MAIL_HINT)
    if "," in host:
        warn(f"The URL has several hosts, {_NO_MAIL}", _MAIL_HINT)
        return None
    if not (parts.user + parts.password).isascii():
        warn(f"The user name or the password has a character that is not ASCII, {_NO_MAIL}", _NO_ASCII)
        return None
    asked = {key.lower(): value.lower() not in ("0", "false", "no", "off") for key, value in parse_qsl(parts.query)}
    ssl = parts.scheme in ("smtp+ssl", "smtps") or asked.pop("email_use_ssl", False)
    tls = parts.scheme == "smtp+tls" or asked.pop("email_use_tls", False)
    if asked or parts.path.strip("/") or parts.fragment:
        warn("The text after the host and port of the URL has no effect.", "Remove it. " + _MAIL_HINT)
    if ssl and tls:
        warn(f"TLS from the first byte and STARTTLS exclude each other, {_NO_MAIL}", _MAIL_HINT)
        return None
    return MailServer(
        host=host,
        port=int(port) if port else 465 if ssl else 587 if tls else 25,
        user=parts.user,
        password=parts.password,
        tls=tls,
        ssl=ssl,
    )


def database_url() -> Notation:
    """DATABASE_URL as a `Database`."""
    return Notation(words="URL", parse=parse_database_url)


def mail_url() -> Notation:
    """EMAIL_URL as a `MailServer`."""
    return Notation(words="URL", parse=parse_mail_url)
