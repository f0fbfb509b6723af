"""System checks: errors (E) stop the start, warnings (W) name a risk. Each has an id and a hint.

E0xx and W0xx are about the installation; E1xx and W1xx are findings about a repository policy (`deployments.policy`).
No check uses the network or the database.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from deployments import policy
from deployments.access import key_strength
from deployments.aws.clients import setup_error
from deployments.aws.partitions import fips_regions, partitions, registry_of
from deployments.config import Configuration, RegistryConfig

#: The tags of the checks in this module, for a command that shows no page and answers no request. Django's checks of
#: URLs and templates would load the console and the API into it.
WITHOUT_PAGES = ("configuration", "policy", "queue", "security")


@register("configuration")
def configuration_is_readable(**kwargs: Any) -> Iterable[CheckMessage]:
    """E001: a variable is malformed. E015: EMAIL_URL is malformed. W001: a variable, or a part of one, was ignored, or
    the form of its value is suspicious.
    """
    configuration: Configuration = settings.CONFIGURATION
    for problem in configuration.problems:
        number = "E015" if problem.variable.startswith("EMAIL_URL") else "E001"
        yield Error(f"{problem.variable}: {problem.message}", hint=problem.hint, id=f"deployments.{number}")
    for warning in configuration.warnings:
        yield Warning(f"{warning.variable}: {warning.message}", hint=warning.hint, id="deployments.W001")


_ECR_PUBLIC = r"public\.ecr\.aws|(.+\.)?ecr-public\.([a-z0-9-]+\.)?(aws\.com|amazonaws\.com|api\.aws)"
_LIKE_ECR = r"\bdkr[.-]ecr\b|\.ecr\.|\becr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com|api\.aws)"


class _MalformedSetting(Exception):
    """A check reads a setting whose given value cannot be used."""


class _Readable:
    """A configuration or a registry as checks read it: to read a malformed setting raises _MalformedSetting."""

    def __init__(self, settings: Configuration | RegistryConfig) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        if name in self._settings.malformed:
            raise _MalformedSetting(name)
        return getattr(self._settings, name)


def _configuration() -> Configuration:
    return cast(Configuration, _Readable(settings.CONFIGURATION))


def _check(*tags: str, **options: Any) -> Callable[[Callable[[], Iterable[CheckMessage]]], Callable[..., Any]]:
    """Register a check of settings. It ends where it reads a malformed one: E001 says so already, and what would follow
    from the default in its place is untrue (D-no-follow-on).
    """

    def decorate(check: Callable[[], Iterable[CheckMessage]]) -> Callable[..., Any]:
        def run(**kwargs: Any) -> Iterator[CheckMessage]:
            try:
                yield from check()
            except _MalformedSetting:
                return

        register(*tags, **options)(run)
        return run

    return decorate


def _check_each_registry(
    *tags: str,
) -> Callable[[Callable[[str, RegistryConfig], Iterable[CheckMessage]]], Callable[..., Any]]:
    """As `_check`, for a check of one registry: its arguments are the prefix of the variables and the registry."""

    def decorate(check: Callable[[str, RegistryConfig], Iterable[CheckMessage]]) -> Callable[..., Any]:
        def run(**kwargs: Any) -> Iterator[CheckMessage]:
            for variable, registry in _registries():
                try:
                    yield from check(variable, registry)
                except _MalformedSetting:
                    continue

        register(*tags)(run)
        return run

    return decorate


@_check_each_registry("configuration")
def registry_hosts_are_what_they_look_like(variable: str, registry: RegistryConfig) -> Iterable[CheckMessage]:
    """E002: a host looks like ECR and is not, or is ECR Public. It would be treated as a plain registry: no repository,
    no policy.

    W002: ECR settings are set for a registry that is not ECR, so they have no effect. W006: botocore knows no FIPS
    endpoint of ECR in the region, so the host probably does not exist.
    """
    found = registry_of(registry.host)
    if found is not None:
        if "ecr-fips." in registry.host and found.region not in fips_regions():
            yield Warning(
                f"{variable}DEPLOY_REGISTRY_HOST: as far as this release knows, ECR has no FIPS endpoint in "
                f"{found.region}, so no host with this name exists and images cannot be pulled.",
                hint=f"Write {registry.host.replace('ecr-fips.', 'ecr.')}, unless AWS has added the endpoint since. "
                f"ECR has FIPS endpoints in {', '.join(sorted(fips_regions()))}.",
                id="deployments.W006",
            )
    elif re.fullmatch(_ECR_PUBLIC, registry.host):
        yield Error(
            f"{variable}DEPLOY_REGISTRY_HOST: “{registry.host}” is ECR Public, and this program works with private "
            "registries: everybody may pull from ECR Public.",
            hint="For example 111111111111.dkr.ecr.us-east-1.amazonaws.com.",
            id="deployments.E002",
        )
    elif re.search(_LIKE_ECR, registry.host):
        yield Error(
            f"{variable}DEPLOY_REGISTRY_HOST: “{registry.host}” looks like an ECR registry and is not: its "
            "account (12 digits), region or ending is wrong.",
            hint="For example 111111111111.dkr.ecr.us-east-1.amazonaws.com.",
            id="deployments.E002",
        )
    elif any(getattr(registry, field) and not _used_elsewhere(variable, field) for field in _ECR_FIELDS):
        yield Warning(
            f"{variable}DEPLOY_REGISTRY_ECR_…: set, but {registry.host} is not ECR, so they have no effect.",
            hint=f"Set {variable}DEPLOY_REGISTRY_HOST to the ECR registry's host, or remove these settings.",
            id="deployments.W002",
        )


_ECR_FIELDS = ("default_repository_policy", "assume_role_arn", "tags", "kms_key")


def _used_elsewhere(variable: str, field: str) -> bool:
    """Whether the value of a registry that is not ECR is used by the other registry, or was set for it."""
    configuration: Configuration = settings.CONFIGURATION
    own = field in configuration.v4.from_v4
    return not own if variable else not own and registry_of(configuration.v4.host) is not None


@_check_each_registry("configuration")
def identifiers_belong_to_the_registry(variable: str, registry: RegistryConfig) -> Iterable[CheckMessage]:
    """E005: a role or KMS key is in another partition than the registry, or the key in another region.

    IAM User Guide, “Cross account resource access in IAM”: access works within one partition. ECR API Reference,
    EncryptionConfiguration: the key must exist in the same Region as the repository.
    """
    found = registry_of(registry.host)
    for field in ("assume_role_arn", "push_role_arn", "kms_key") if found else ():
        arn = None if field in registry.malformed else getattr(registry, field)
        if found is None or not arn or not arn.startswith("arn:"):
            continue
        partition, _, region = arn.split(":")[1:4]
        if partition != found.partition or region not in ("", found.region):
            place = f"{region} of partition {partition}" if region else f"partition {partition}"
            yield Error(
                f"{registry.variable(field)}: {arn} is in {place}, and {registry.host} is in {found.region} of "
                f"partition {found.partition}, so AWS refuses it.",
                hint=f"Write an ARN that begins with {':'.join(['arn', found.partition, arn.split(':')[2]])}:"
                f"{found.region if region else ''}:.",
                id="deployments.E005",
            )


@_check_each_registry("configuration")
def regions_are_known(variable: str, registry: RegistryConfig) -> Iterable[CheckMessage]:
    """W005: botocore does not know the region: the region is new, or misspelt."""
    found = registry_of(registry.host)
    if found and not any(found.region in partition.regions for partition in partitions()):
        yield Warning(
            f"{variable}DEPLOY_REGISTRY_HOST: this release does not know the region {found.region}.",
            hint="Correct the region if it is misspelt; a new region works.",
            id="deployments.W005",
        )


@_check("configuration")
def boto3_can_be_set_up() -> Iterable[CheckMessage]:
    """E004: boto3 makes no client with its own variables: an unknown profile, an endpoint that is not a URL."""
    found = next((ecr for _, registry in _registries() if (ecr := registry_of(registry.host))), None)
    if found and (error := setup_error(found.region)):
        variable, says = error
        yield Error(
            f"{variable}: {says}, so no call to AWS is possible.",
            hint="Correct the variable, or remove it: boto3's documentation, “Configuration”, lists them.",
            id="deployments.E004",
        )


@_check_each_registry("configuration")
def other_accounts_get_a_policy(variable: str, registry: RegistryConfig) -> Iterable[CheckMessage]:
    """W004: an ECR registry has no default policy, so no other account can pull."""
    found = registry_of(registry.host)
    if found and registry.default_repository_policy is None:
        yield Warning(
            f"{variable}DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY: not set, so only account {found.account} "
            "can pull from the repositories that deploys create.",
            hint="Set it to the policy that your cluster's accounts need; .env.example has an example.",
            id="deployments.W004",
        )


@_check("configuration")
def registries_do_not_overlap() -> Iterable[CheckMessage]:
    """E003: the plain and the V4 settings differ and are about the same repositories.

    Either two host names mean the same registry (FIPS, dual-stack), or one namespace contains the other. Such a
    repository would be overwritten again and again, by one set of settings and by the other.
    """
    (_, plain), (_, v4) = _both_registries()
    first, second = registry_of(plain.host), registry_of(v4.host)
    if first is None or first != second or (plain.host, plain.namespace) == (v4.host, v4.namespace):
        return
    spaces = (f"{plain.namespace}/", f"{v4.namespace}/")
    if spaces[0].startswith(spaces[1]) or spaces[1].startswith(spaces[0]):
        yield Error(
            f"The plain and the V4 settings are both about repositories under {max(spaces, key=len)} of account "
            f"{first.account} in {first.region}.",
            hint="Write the host the same way in both, or give them namespaces that do not contain each other.",
            id="deployments.E003",
        )


@_check_each_registry("policy", "security")
def policies_are_sound(variable: str, registry: RegistryConfig) -> Iterable[CheckMessage]:
    """E1xx, W1xx: the findings of `manage.py policy lint` about the configured repository policies."""
    plain = settings.CONFIGURATION.plain
    text = registry.default_repository_policy
    shared = (
        bool(variable)
        and text == plain.default_repository_policy
        and "default_repository_policy" not in plain.malformed
    )
    # The findings about the plain registry's policy are shown once. Partition and writer may add findings.
    shown = _policy_findings(cast(RegistryConfig, _Readable(plain))) if shared else ()
    for finding in _policy_findings(registry):
        if finding in shown:
            continue
        make = Error if finding.level == "error" else Warning
        place = f" This is about the registry {registry.host}." if shared else ""
        message = f"{registry.variable('default_repository_policy')}: {finding.message}{place}"
        hint = finding.hint
        if finding.id == "deployments.E110":
            hint += " A policy that is meant to be public needs DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY=1."
        yield make(message, hint=hint, id=finding.id)


def _policy_findings(registry: RegistryConfig) -> tuple[policy.Finding, ...]:
    if not registry.default_repository_policy:
        return ()
    found = registry_of(registry.host)
    writer = found.account if found else None
    if found and "assume_role_arn" not in registry.malformed:
        writer = registry.writer(found.account)
    return tuple(
        policy.lint(
            registry.default_repository_policy,
            partition=found.partition if found else None,
            allow_public=_configuration().allow_public_policy,
            # Without the accounts, if they are malformed: the findings about the policy itself do not depend on them.
            consumer_accounts=() if "consumer_accounts" in registry.malformed else registry.consumer_accounts,
            writer=writer,
        )
    )


def _both_registries() -> list[tuple[str, RegistryConfig]]:
    """(prefix of the variables, registry as checks read it)."""
    configuration: Configuration = settings.CONFIGURATION
    found = (("", configuration.plain), ("V4_", configuration.v4))
    return [(variable, cast(RegistryConfig, _Readable(registry))) for variable, registry in found]


def _registries() -> list[tuple[str, RegistryConfig]]:
    """As `_both_registries`; only the plain registry if both are equal."""
    configuration: Configuration = settings.CONFIGURATION
    return _both_registries()[: 1 if configuration.plain == configuration.v4 else 2]


@_check("security", deploy=True)
def variables_have_a_key_of_their_own() -> Iterable[CheckMessage]:
    """W003: without ENCRYPTION_KEY, a changed SECRET_KEY (for example after a leak) makes stored secrets unreadable."""
    if not _configuration().encryption_keys:
        yield Warning(
            "ENCRYPTION_KEY: not set, so the stored environment variables are encrypted with a key derived from "
            "SECRET_KEY, and cannot be decrypted once SECRET_KEY is changed.",
            hint="Set ENCRYPTION_KEY (python -c 'import secrets; print(secrets.token_hex(32))'), then run "
            "manage.py reencrypt.",
            id="deployments.W003",
        )


@_check("security")
def keys_are_long_enough() -> Iterable[CheckMessage]:
    """W010, W011: SECRET_KEY or METRICS_KEY can be guessed. A new installation does not start with such a key
    (`deployments.access.key_strength`).
    """
    _configuration()
    for weakness in key_strength.weaknesses(settings):
        yield Warning(weakness.says, hint=weakness.then, id=f"deployments.{weakness.check}")


@register("security")
def files_are_private(**kwargs: Any) -> Iterable[CheckMessage]:
    """W013: another user of this host can read or write a file with keys, or the SQLite database.

    A read-only mounted secret may belong to the group of the process, as in Kubernetes.
    """
    files = dict(settings.SECRET_FILES)
    database = settings.DATABASES["default"]
    if database["ENGINE"] == "registry_admin.sqlite":
        files |= {f"database{end}": Path(f"{database['NAME']}{end}") for end in ("", "-wal", "-shm")}
    for what, path in files.items():
        try:
            mode = path.stat().st_mode
            others = 0o007 if os.statvfs(path).f_flag & os.ST_RDONLY else 0o077
        except (OSError, ValueError):  # it does not exist; E001 says so of a setting
            continue
        if stat.S_ISREG(mode) and mode & others:
            yield Warning(
                f"{what}: other users of this host may use the file (mode {stat.S_IMODE(mode):04o}), which contains "
                "keys or sessions.",
                hint=f"chmod 600 {shlex.quote(str(path))}, as the user that runs the processes.",
                id="deployments.W013",
            )


@_check("security")
def the_proxy_is_known() -> Iterable[CheckMessage]:
    """W012: https without TRUSTED_PROXIES. W014: a redirect to https without the proxy's header."""
    configuration = _configuration()
    if not configuration.app_origin.startswith("https://"):
        return
    if not configuration.trusted_proxies:
        yield Warning(
            "TRUSTED_PROXIES: APP_ORIGIN is https, and no proxy is trusted. If a proxy ends TLS, all clients have the "
            "address of the proxy: what limits one address limits all clients, and the audit log cannot tell them "
            "apart. If gunicorn itself ends TLS, slow clients can hold all its threads.",
            hint="Behind a proxy, set TRUSTED_PROXIES to the number of proxies that add to X-Forwarded-For, usually 1. "
            "If gunicorn ends TLS, put a proxy in front; until then leave it at 0, because with 1 each client could "
            "name its own address.",
            id="deployments.W012",
        )
    if configuration.https_redirect and not configuration.proxy_scheme_header:
        yield Warning(
            "HTTPS_REDIRECT: set without PROXY_SCHEME_HEADER. Behind a proxy on another host every request looks like "
            "http, and each page is redirected to itself without end.",
            hint="Set PROXY_SCHEME_HEADER=X-Forwarded-Proto if the proxy replaces this header in each request.",
            id="deployments.W014",
        )


@_check("security")
def single_sign_on_is_complete() -> Iterable[CheckMessage]:
    """E016: single sign-on is set in part. W015: it gives nobody access. W016: passwords cannot be switched off."""
    configuration = _configuration()
    if configuration.sso_issuer and not configuration.sso_client_id:
        yield Error(
            "SSO_CLIENT_ID: not set, and SSO_ISSUER is, so nobody can log in by single sign-on.",
            hint="Set it to the client id that the OpenID provider gave, or remove SSO_ISSUER.",
            id="deployments.E016",
        )
    if configuration.sso_issuer and not configuration.sso_groups:
        yield Warning(
            "SSO_GROUPS: not set, so single sign-on gives nobody access.",
            hint="Name the groups of the OpenID provider that give access: "
            'SSO_GROUPS={"engineering":"viewer","platform-admins":"admin"}.',
            id="deployments.W015",
        )
    if not configuration.password_log_in and not configuration.sso_issuer:
        yield Warning(
            "PASSWORD_LOG_IN: 0 has no effect without single sign-on, because nobody could log in.",
            hint="Set SSO_ISSUER and what belongs to it, or remove PASSWORD_LOG_IN.",
            id="deployments.W016",
        )


@register("queue")
def queue_settings_are_safe(**kwargs: Any) -> Iterable[CheckMessage]:
    """E010–E014: django-q2 settings that run a task twice or never end a hung task (measured).

    `retry` counts from the moment a message is fetched, so it must cover the messages that wait in memory before it.
    """
    queue: dict[str, Any] = settings.Q_CLUSTER
    workers, timeout = queue.get("workers", 1), queue.get("timeout")
    if not timeout:
        yield Error("Q_CLUSTER: there is no timeout, so a hung task would never end.", hint="60", id="deployments.E010")
        return
    prefetched = queue.get("queue_limit", workers**2) + queue.get("bulk", 1)
    least = timeout * (1 + math.ceil(prefetched / workers)) + 30
    if queue.get("retry", 60) < least:
        yield Error(
            f"Q_CLUSTER: retry must be at least {least} with these workers, queue_limit, bulk and timeout; tasks that "
            "wait in a worker's memory would be run twice.",
            hint=f'"retry": {least}',
            id="deployments.E011",
        )
    if queue.get("guard_cycle", 0.5) not in (0.5, 1):
        yield Error(
            "Q_CLUSTER: guard_cycle must be 0.5 or 1; with any other value a hung task is never ended.",
            hint='"guard_cycle": 0.5',
            id="deployments.E012",
        )
    if not queue.get("ack_failures") or queue.get("max_attempts") != 1:
        yield Error(
            "Q_CLUSTER: the queue would repeat a failed task; our own tables decide what is tried again.",
            hint='"ack_failures": True, "max_attempts": 1',
            id="deployments.E013",
        )
    if settings.DATABASES["default"].get("ATOMIC_REQUESTS"):
        yield Error(
            "DATABASES: ATOMIC_REQUESTS would keep a transaction open during calls to AWS.",
            hint="Remove it.",
            id="deployments.E014",
        )
