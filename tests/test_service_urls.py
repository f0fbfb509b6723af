"""DATABASE_URL and EMAIL_URL: what is read, what is refused with which sentence; no sentence has a password."""

from __future__ import annotations

import pytest
from psycopg import pq

from deployments import service_urls
from deployments.notations import Malformed
from deployments.service_urls import Database, MailServer


def database(url: str) -> tuple[Database, list[str]]:
    said: list[str] = []
    return service_urls.parse_database_url(url, lambda message, hint: said.append(f"{message} {hint}")), said


def refused(url: str) -> str:
    with pytest.raises(Malformed) as caught:
        service_urls.parse_database_url(url, lambda message, hint: None)
    return f"{caught.value.message} {caught.value.hint}"


def mail(url: str) -> MailServer | None:
    return service_urls.parse_mail_url(url, lambda message, hint: pytest.fail(message))


def postgresql(name: str = "app", **more: object) -> Database:
    given: dict[str, object] = {"user": "u", "password": "pw", "host": "db", "port": "5432", **more}
    return Database(engine="postgresql", name=name, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://u:pw@db:5432/app", postgresql()),
        ("POSTGRESQL://u:pw@DB:5432/app", postgresql()),
        ("pgsql://u:pw@db/app", postgresql(port="")),
        ("postgres://u:p%3Fs%2Fs@db:5432/app", postgresql(password="p?s/s")),
        ("postgres://u:$a#b@c%d[e]:f@db:5432/app", postgresql(password="$a#b@c%d[e]:f")),
        ("postgres://u@x.example:pw@db:5432/app", postgresql(user="u@x.example")),
        ("postgres://u:pw@[::1]:5432/app", postgresql(host="::1")),
        ("postgres://u:pw@h1:5432,h2:5433/app", postgresql(host="h1,h2", port="5432,5433")),
        ("postgres://u:pw@h1:5432,h2,h3:5433/app", postgresql(host="h1,h2,h3", port="5432,,5433")),
        ("postgres://u:pw@%2Frun%2Fpostgresql/app", postgresql(host="/run/postgresql", port="")),
        ("postgres://u:pw@/app?host=/run/postgresql", postgresql(host="/run/postgresql", port="")),
        ("postgres:////run/postgresql/app", postgresql(host="/run/postgresql", port="", user="", password="")),
        ("postgres://db:5432/app?user=u&password=pw", postgresql()),
        ("postgres://u:pw@db:5432/app?sslmode=require", postgresql(options=(("sslmode", "require"),))),
        ("postgres://u:pw@db:5432/app?connect_timeout=3", postgresql(options=(("connect_timeout", 3),))),
        ("postgres://u:pw@db:5432/app?ssl=true", postgresql(options=(("sslmode", "require"),))),
        (
            "postgres://u:pw@db:5432/app?options=-c%20search_path%3Dpublic",
            postgresql(options=(("options", "-c search_path=public"),)),
        ),
        ("postgres://u:pw@db:5432/app?disable_server_side_cursors=true", postgresql(server_side_cursors=False)),
        ("sqlite:////data/db.sqlite3", Database(engine="sqlite", name="/data/db.sqlite3")),
        ("sqlite:///data/a%20b.sqlite3", Database(engine="sqlite", name="data/a b.sqlite3")),
        ("sqlite:////data/me@home/db.sqlite3", Database(engine="sqlite", name="/data/me@home/db.sqlite3")),
        ("sqlite://:memory:", Database(engine="sqlite", name=":memory:")),
        ("sqlite://", Database(engine="sqlite", name=":memory:")),
    ],
)
def test_a_database_url_is_read(url: str, expected: Database) -> None:
    assert database(url) == (expected, [])


def test_a_url_that_django_environ_read_means_the_same_database_as_before() -> None:
    url = "postgres://me@azure:p+w%2F%25@h1:1,h2:2//run/pg/a%20b?sslmode=require&application_name=x@y&keepalives=1"

    expected = postgresql(
        name="a b",
        user="me@azure",
        password="p+w/%",
        host="/run/pg",
        port="1,2",
        options=(("sslmode", "require"), ("application_name", "x@y"), ("keepalives", 1)),
    )
    assert database(url) == (expected, [])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://u:pw@db:5432/app?connect_timeout=-1", postgresql(options=(("connect_timeout", -1),))),
        ("postgres://u:pw@db:5432/app?connect_timeout=10.0", postgresql(options=(("connect_timeout", 10),))),
        ("postgres://u:pw@db:5432/app?keepalives_idle=%2B30", postgresql(options=(("keepalives_idle", 30),))),
        ("postgres://u:pw@db:5432/x?dbname=app", postgresql()),
        ("postgres://u:pw@db:5432/app?replication=false", postgresql()),
        ("postgres://u:pw@db:5432/app?requiressl=1", postgresql(options=(("sslmode", "require"),))),
        ("postgres://u:pw@db:5432/app?requiressl=0", postgresql(options=(("sslmode", "prefer"),))),
        ("postgres://u:pw@db:5432/app?DISABLE_SERVER_SIDE_CURSORS=yes", postgresql(server_side_cursors=False)),
        (
            "postgres://u:pw@db:5432/app?server_side_binding=False",
            postgresql(options=(("server_side_binding", False),)),
        ),
        ("postgres:/app", postgresql(user="", password="", host="", port="")),
        ("sqlite:/data/db.sqlite3", Database(engine="sqlite", name="data/db.sqlite3")),
    ],
)
def test_a_spelling_that_0_1_0_understood_means_the_same(url: str, expected: Database) -> None:
    assert database(url) == (expected, [])


@pytest.mark.parametrize("hosts", ["h1,h2:6432", "h1:6432,h2", "h1,h2,[::1]:6432"])
def test_one_port_of_several_hosts_counts_for_all_of_them_with_a_warning(hosts: str) -> None:
    found, [warning] = database(f"postgres://u:pw@{hosts}/app")

    assert found.port == "6432"
    assert "several hosts and one port" in warning


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("schema=public", "-c search_path=public"),
        ("schema=My-App", '-c search_path="My-App"'),
        ("currentSchema=a,b", "-c search_path=a,b"),
        ("schema=app&options=-c%20statement_timeout%3D5s", "-c statement_timeout=5s -c search_path=app"),
    ],
)
def test_the_schema_of_prisma_and_jdbc_becomes_the_search_path(query: str, options: str) -> None:
    assert database(f"postgres://u:pw@db:5432/app?{query}") == (postgresql(options=(("options", options),)), [])


@pytest.mark.parametrize("option", ["connection_limit", "pool_timeout", "sslaccept", "pool_size"])
def test_an_option_of_another_client_is_ignored_with_a_warning_that_names_it(option: str) -> None:
    found, [warning] = database(f"postgres://u:pw@db:5432/app?{option}=10")

    assert found == postgresql()
    assert option in warning


@pytest.mark.parametrize(("given", "seconds"), [("0", 0), ("60", 60), ("-1", 0)])
def test_how_long_a_thread_keeps_its_connection_can_be_set(given: str, seconds: int) -> None:
    assert database(f"postgres://u:pw@db:5432/app?conn_max_age={given}") == (postgresql(conn_max_age=seconds), [])
    assert "conn_max_age" in refused("postgres://u:pw@db:5432/app?conn_max_age=soon")


def test_prismas_pgbouncer_switches_server_side_cursors_off_and_is_named() -> None:
    found, [warning] = database("postgres://u:pw@db:5432/app?pgbouncer=true")

    assert found == postgresql(server_side_cursors=False)
    assert "pgbouncer" in warning


def test_behind_a_pooler_the_schema_public_needs_no_option_that_the_pooler_may_refuse() -> None:
    found, _ = database("postgres://u:pw@db:5432/app?pgbouncer=true&schema=public")
    other, _ = database("postgres://u:pw@db:5432/app?schema=app&pgbouncer=true")

    assert found.options == ()
    assert other.options == (("options", "-c search_path=app"),)


def test_an_unknown_option_is_refused_by_its_name() -> None:
    said = refused("postgres://u:pw@db:5432/app?sslmod=require")

    assert "sslmod " in said
    assert "Remove the option" in said


def test_an_unknown_option_that_may_be_a_part_of_a_password_is_refused_by_its_number() -> None:
    for url in ("postgres://u:12/app?SECRET=x", "postgres://db/app?password=SE&SECRET=x"):
        said = refused(url)
        assert "option " in said
        assert "SECRET" not in said


@pytest.mark.parametrize(
    ("query", "named"),
    [("sslmode=on", "verify-full"), ("connect_timeout=soon", "connect_timeout"), ("schema=a;b", "schema")],
)
def test_a_wrong_value_of_an_option_is_refused_with_the_right_ones(query: str, named: str) -> None:
    assert named in refused(f"postgres://u:pw@db:5432/app?{query}")


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:SEC?RET@db:5432/app",
        "postgres://u:SEC/RET@db:5432/app",
        "postgres://u:5/RET@db:5432/app",
        "postgres://u:SE@C/RET@db:5432/app",
        "postgres://u:SE@C?RET@db:5432/app",
        "postgres://u:SE@C/x?RET@db:5432/app",
        "postgres://u:SEC#R/ET@db:5432/app",
        "sqlite:///u:SECRET@host/file",
    ],
)
def test_a_password_that_is_not_percent_encoded_is_refused_with_that_word(url: str) -> None:
    said = refused(url)

    assert "ercent-encode" in said
    assert not [piece for piece in ("SEC", "RET", "SE@", "RET@") if piece in said]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("jdbc:postgresql://db/app?user=u&password=SECRET", "JDBC"),
        ("host=db user=u password=SECRET dbname=app", "key=value"),
        ("psql postgres://u:SECRET@db/app", "Other text stands in front"),
        ("PGPASSWORD=SECRET psql -h db", "does not begin with"),
        ("mysql://u:SECRET@db/app", "does not begin with"),
        ("postgres:u:SECRET@db/app", "does not begin with"),
        ("postgres://u:SECRET", "host or port"),
        ("postgres://u:SECRET@db", "no database name"),
        ("postgres://u:SECRET@db:99999/app", "host or port"),
        ("postgres://u:SECRET@db:0/app", "host or port"),
        ("postgres://u:SECRET@[::1/app", "host or port"),
        ("postgres://u:SECRET@d b/app", "host or port"),
        ("postgres://u:SECRET@db/app\nX=1", "line break"),
        ("postgres://u:SECRET%00@db/app", "NUL"),
        ("SECRET", "does not begin with"),
    ],
)
def test_another_form_of_a_database_address_is_refused_with_a_sentence_of_its_own(url: str, words: str) -> None:
    said = refused(url)

    assert words in said
    assert "SECRET" not in said


def test_what_has_no_effect_in_a_url_is_warned_of() -> None:
    assert len(database("sqlite://u:SECRET@host/x?timeout=3#y")[1]) == 3
    found, [warning] = database("postgres://u:SECRET@db/app # prod")
    assert (found.name, "SECRET" in warning) == ("app", False)


def test_the_options_of_the_installed_client_are_known() -> None:
    installed = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}

    assert installed <= service_urls.LIBPQ_OPTIONS


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example.com", MailServer(host="mail.example.com", port=25)),
        ("smtp+tls://u:p%2F@mail:2525", MailServer(host="mail", port=2525, user="u", password="p/", tls=True)),
        ("smtp+ssl://u:p#x@mail", MailServer(host="mail", port=465, user="u", password="p#x", ssl=True)),
        (
            "smtps://u@example.com:p@mail",
            MailServer(host="mail", port=465, user="u@example.com", password="p", ssl=True),
        ),
        ("smtp://mail?EMAIL_USE_TLS=True", MailServer(host="mail", port=587, tls=True)),
    ],
)
def test_a_mail_url_is_read(url: str, expected: MailServer) -> None:
    assert mail(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "mail.example.com", "consolemail://", "smtp://", "smtp://u:SECRET@", "smtp://u:SEC/RET@mail",
        "smtp+tls://u:SECRET@mail:x", "swaks smtp://u:SECRET@mail",
    ],
)  # fmt: skip
def test_a_malformed_mail_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Malformed) as caught:
        mail(url)

    assert "SEC" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "url",
    ["smtp://u:SECRET%C3%A9@mail", "smtp+tls://u:SECRET@mail?email_use_ssl=1", "smtp://u:SECRET@mail,mail2"],
)
def test_a_mail_url_with_which_only_mail_never_worked_is_a_warning_and_sends_no_mail(url: str) -> None:
    said: list[str] = []

    assert service_urls.parse_mail_url(url, lambda message, hint: said.append(f"{message} {hint}")) is None
    [warning] = said
    assert "no mail is sent" in warning
    assert "SECRET" not in warning
