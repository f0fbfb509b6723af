"""The configuration: an environment mapping becomes one frozen `Configuration`.

Pure: it reads a mapping (`registry_admin.settings` is the only reader of the process's environment), and no network and
no Django. A malformed value never raises here. It becomes a `Problem` with the variable's name, the place and an
example, and `deployments.checks` turns the problems into system checks that stop the start. A configuration with
problems gives out no registry: `registry` and `require` raise `ConfigurationError`, so nothing runs with half of the
settings.

The names of the `DEPLOY_…` variables are those of trigger.dev's own deploy registry settings, so that an existing
`.env` works unchanged. So is the `V4_` mirror: each unset V4 variable falls back to the plain variable.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deployments import ecr_rules, images

DEFAULT_LIFECYCLE_POLICY = json.dumps(
    {
        "rules": [
            {
                "rulePriority": 1,
                "description": "Untagged images expire 3 days after they were pushed",
                "selection": {
                    "tagStatus": "untagged",
                    "countType": "sinceImagePushed",
                    "countUnit": "days",
                    "countNumber": 3,
                },
                "action": {"type": "expire"},
            }
        ]
    }
)
POLICY_EXAMPLE = (
    '\'{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::222222222222:root"},'
    '"Action":["ecr:BatchGetImage","ecr:GetDownloadUrlForLayer","ecr:BatchCheckLayerAvailability"]}]}\''
)


class ConfigurationError(Exception):
    """The configuration has problems; the text has all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One variable that an operator may set, with its text for `.env.example`."""

    name: str
    says: str
    default: str = ""
    example: str = ""
    mirrored: bool = False  # also read as V4_NAME


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="DEPLOY_REGISTRY_HOST",
        says="Registry host of the image refs. Repositories are created and managed only if the host is ECR.",
        default="localhost:5000",
        example="111111111111.dkr.ecr.us-east-1.amazonaws.com",
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_NAMESPACE",
        says="First part of every repository name: NAMESPACE/PROJECTREF.",
        default="trigger",
        mirrored=True,
    ),
    Setting(name="DEPLOY_REGISTRY_USERNAME", says="User name for a registry that is not ECR.", mirrored=True),
    Setting(name="DEPLOY_REGISTRY_PASSWORD", says="Password for a registry that is not ECR.", mirrored=True),
    Setting(
        name="DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY",
        says="Repository policy (IAM JSON) that every repository gets when it is created. For a long policy use _FILE.",
        example=POLICY_EXAMPLE,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_TAGS",
        says="AWS tags of every repository: comma-separated key=value; a key without = gets an empty value.",
        example="team=platform,managed-by=registry-admin",
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN",
        says="Role to assume for ECR. Unset: this process's own AWS credentials are used.",
        example="arn:aws:iam::111111111111:role/registry-admin",
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID",
        says="External id that the role's trust policy requires.",
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN",
        says="Role that is assumed to make the registry credentials of a deploy, which are limited to its repository. "
        "Default: the role above, or a federated session of the IAM user that this server runs as.",
        example="arn:aws:iam::111111111111:role/registry-admin-push",
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY",
        says="Lifecycle policy (ECR's JSON). Default: untagged images expire 3 days after their push.",
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_KMS_KEY",
        says="KMS key (ARN or id) that new repositories are encrypted with. Unset: AES256.",
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_POLICY_MODE",
        says="enforce writes the policy where access differs; observe never changes an existing repository.",
        default="enforce",
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS",
        says="Accounts that must be able to pull, comma-separated; checked at start and with each repository.",
        example="222222222222,333333333333",
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS",
        says="Roles in the consumer accounts, comma-separated; with each, a pull is tried before an image is promoted.",
        example="arn:aws:iam::222222222222:role/registry-admin-probe",
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY",
        says="Accept a policy that opens the repositories to everyone. Almost never what you want.",
        default="0",
    ),
    Setting(name="DEPLOY_IMAGE_PLATFORM", says="Platforms to build for, comma-separated.", default="linux/amd64"),
    Setting(
        name="DEPLOY_TIMEOUT_MS",
        says="A deployment that has been building or deploying for this long is timed out.",
        default="480000",
    ),
    Setting(
        name="DEPLOY_QUEUE_TIMEOUT_MS",
        says="Accepted and not used: images are built where the CLI runs, so no deployment waits in a queue.",
        example="900000",
    ),
    Setting(
        name="DEPLOY_IMAGE_VERIFICATION_ENABLED",
        says="Promote an image only after a check that it is in the registry and can be pulled.",
        default="1",
    ),
    Setting(
        name="DEPRECATE_V3_CLI_DEPLOYS_ENABLED",
        says="Refuse deploys by 3.x CLIs with an error that says to upgrade.",
        default="0",
    ),
    Setting(
        name="RECONCILE_FRESHNESS_SECONDS",
        says="A deploy does not check a repository again that was checked within this time; 0: every deploy checks.",
        default="60",
    ),
    Setting(
        name="RECONCILE_INTERVAL_MINUTES",
        says="How often a sweep checks all repositories; 0: no scheduled sweeps.",
        default="10",
    ),
    Setting(
        name="RECONCILE_CALLS_PER_SECOND",
        says="Calls to AWS per second that all sweeps together may make; fewer while AWS throttles.",
        default="20",
    ),
    Setting(
        name="RECONCILE_EVENTS_QUEUE_URL",
        says="SQS queue with CloudTrail's ECR calls; with it, drift is found within seconds.",
        example="https://sqs.us-east-1.amazonaws.com/111111111111/registry-admin",
    ),
    Setting(
        name="CONFIGURATION_GENERATION",
        says="Number of these settings, higher for each newer version (a Helm chart's revision). All processes use the "
        "settings with the highest number. Unset: the settings that were started last for the first time.",
        example="7",
    ),
    Setting(
        name="APP_ORIGIN",
        says="Origin at which people reach this server; the links that the CLI prints begin with it.",
        default="http://localhost:8000",
    ),
    Setting(
        name="API_ORIGIN",
        says="Origin at which the CLI and the image build reach this server. Default: APP_ORIGIN.",
    ),
    Setting(
        name="DATABASE_URL",
        says="Database. Default: an SQLite file beside manage.py.",
        example="postgres://user:password@host:5432/registry_admin",
    ),
    Setting(
        name="SECRET_KEY",
        says="Django's signing key. With the SQLite default it is made at the first start, in a 0600 file beside it.",
    ),
    Setting(
        name="ENCRYPTION_KEY",
        says="Key that encrypts stored secrets; 32 characters or more. Older keys follow, comma-separated. Default: "
        "SECRET_KEY.",
    ),
    Setting(
        name="EMAIL_URL",
        says="Mail server for notifications: smtp+tls:// (STARTTLS), smtp+ssl:// or smtp://. Default: no mail.",
        example="smtp+tls://user:password@mail.example.com:587",
    ),
    Setting(
        name="EMAIL_FROM",
        says="Sender of notifications by mail.",
        default="registry-admin@localhost",
        example="Registry Admin <registry-admin@example.com>",
    ),
    Setting(
        name="NOTIFY_ALLOW_PRIVATE",
        says="Allow notifications to private and loopback addresses, any port and plain http. Link-local and metadata "
        "addresses stay forbidden.",
        default="0",
    ),
    Setting(
        name="METRICS_KEY",
        says="Key for /metrics (Prometheus) and /status.json, sent as Authorization: Bearer …. Default: both are off.",
    ),
    Setting(name="DEBUG", says="Django's debug pages. Never in production.", default="0"),
    Setting(
        name="ALLOWED_HOSTS",
        says="Host names that this server answers to, comma-separated; the hosts of the two origins are added.",
    ),
    Setting(
        name="TRUSTED_PROXIES",
        says="Number of proxies in front that add to X-Forwarded-For; the client's address is taken from that header.",
        default="0",
    ),
    Setting(
        name="STATIC_ROOT",
        says="Folder into which collectstatic copies the console's static files.",
        example="/var/lib/registry-admin/static",
    ),
    Setting(
        name="LOG_LEVEL",
        says="Level of this program's log: DEBUG, INFO, WARNING or ERROR. DEBUG adds probes, polls and reads from AWS.",
        default="INFO",
    ),
    Setting(
        name="LOG_FORMAT",
        says="Form of each log line: json, text, or auto (text on a terminal, else json).",
        default="auto",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why the start stops: the variable, what is wrong and where, and an example of a correct value."""

    variable: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.message} {self.hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """One registry that images are pushed to, and the desired state of its repositories."""

    host: str
    namespace: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    default_repository_policy: str | None = None  # verbatim, as the operator wrote it
    tags: tuple[tuple[str, str], ...] = ()
    assume_role_arn: str | None = None
    assume_role_external_id: str | None = field(default=None, repr=False)
    lifecycle_policy: str = DEFAULT_LIFECYCLE_POLICY
    kms_key: str | None = None
    consumer_accounts: tuple[str, ...] = ()  # the same for all registries
    push_role_arn: str | None = None
    probe_role_arns: tuple[str, ...] = ()  # the same for all registries

    @property
    def desired(self) -> dict[str, Any]:
        """The settings that make up the desired state of a repository. Credentials are not among them."""
        return {
            "host": self.host,
            "namespace": self.namespace,
            "policy": self.default_repository_policy,
            "lifecycle": self.lifecycle_policy,
            "tags": dict(self.tags),
            "kms": self.kms_key,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All settings about deploys. `v4`: for deploys of type MANAGED; by default equal to `plain`."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    plain: RegistryConfig
    v4: RegistryConfig
    image_platform: str
    deploy_timeout: timedelta
    image_verification: bool
    refuse_v3: bool
    freshness: timedelta
    enforce: bool  # False: observe
    allow_public_policy: bool
    reconcile_interval: timedelta
    calls_per_second: int
    events_queue_url: str | None
    debug: bool
    notify_allow_private: bool
    log_level: str
    log_format: str  # auto, json or text
    app_origin: str
    api_origin: str
    trusted_proxies: int = 0
    encryption_keys: tuple[str, ...] = field(default=(), repr=False)  # the first encrypts; empty: SECRET_KEY is used
    generation: int | None = None  # CONFIGURATION_GENERATION
    activation: int = 0  # id of the ConfigurationActivation that this was read from; 0: this process's settings

    def registry(self, deployment_type: str | None) -> RegistryConfig:
        """The registry of a deploy request: `v4` for type MANAGED, else `plain` (a 3.x CLI sends no type).

        Raises ConfigurationError if the configuration has problems.
        """
        self.require()
        return self.v4 if deployment_type == "MANAGED" else self.plain

    def require(self) -> Configuration:
        """This configuration. Raises ConfigurationError if it has problems."""
        if self.problems:
            raise ConfigurationError("\n".join(str(problem) for problem in self.problems))
        return self

    @property
    def registries(self) -> tuple[RegistryConfig, ...]:
        """The one or two different registries."""
        return (self.v4,) if self.plain == self.v4 else (self.v4, self.plain)

    @property
    def desired_digest(self) -> str:
        """Identifies the desired state of all repositories. A row stores the digest that it was last compared with."""
        return desired_digest(self.plain, self.v4, self.enforce)


def desired_digest(plain: RegistryConfig, v4: RegistryConfig, enforce: bool) -> str:
    """Hex SHA-256 of the desired state.

    Unset settings are left out, so that a new setting does not change the digest.
    """
    said = [{name: value for name, value in each.desired.items() if value} for each in (plain, v4)]
    return hashlib.sha256(json.dumps([*said, enforce], sort_keys=True).encode()).hexdigest()


_KMS_KEY = re.compile(
    r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:)?(key/)?(mrk-)?[0-9a-f-]{32,36}|(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:)?alias/.+"
)
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def env_file_problems(path: Path, *, named: bool) -> tuple[Problem, ...]:
    """Why a `.env` file is not read: it cannot be opened, or has lines that are not settings (given by number only).

    The only function here that reads a file. `named`: an operator gave the path, so the file must exist.
    """
    hint = "A line has the form NAME=value or # comment; put a text of several lines in a file: NAME_FILE=/path."
    if not path.exists() and not named:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        return (Problem(variable="ENV_FILE", message=f"{path} cannot be read: {reason}.", hint="Correct the path."),)
    wrong = [
        number
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#") and not re.match(r"(export )?[A-Za-z_][A-Za-z0-9_]*=", line)
    ]
    if not wrong:
        return ()
    numbers = ", ".join(str(number) for number in wrong[:5]) + (" and more" if len(wrong) > 5 else "")
    message = f"Line {numbers} of {path} is not a setting, so the whole file was ignored."
    return (Problem(variable="ENV_FILE", message=message, hint=hint),)


def load(environment: Mapping[str, str], *, found: tuple[Problem, ...] = ()) -> Configuration:
    """Read every variable of `SETTINGS` that is about deploys. An empty value means unset. Never raises.

    `found`: problems that were found before, while the environment was put together.
    """
    reader = _Reader(environment)
    reader.problems.extend(found)
    plain = reader.registry("")
    v4 = reader.registry("V4_")
    if (plain.host, plain.namespace) == (v4.host, v4.namespace) and plain.desired != v4.desired:
        differing = ", ".join(name for name, value in plain.desired.items() if v4.desired[name] != value)
        reader.problem(
            "V4_DEPLOY_REGISTRY_HOST",
            f"The plain and the V4 settings have the same host and namespace but differ in: {differing}.",
            "The two would overwrite each other's repositories again and again. Make them equal, or give "
            "V4_DEPLOY_REGISTRY_NAMESPACE another value.",
        )
    reader.look_for_misspelt()
    reader.look_for_unused()
    app_origin = reader.origin("APP_ORIGIN", "http://localhost:8000")
    return Configuration(
        plain=plain,
        v4=v4,
        image_platform=reader.platforms(),
        deploy_timeout=timedelta(
            milliseconds=reader.whole("DEPLOY_TIMEOUT_MS", 480_000, least=1_000, most=7 * 86_400_000)
        ),
        image_verification=reader.switch("DEPLOY_IMAGE_VERIFICATION_ENABLED", True),
        refuse_v3=reader.switch("DEPRECATE_V3_CLI_DEPLOYS_ENABLED", False),
        freshness=timedelta(seconds=reader.whole("RECONCILE_FRESHNESS_SECONDS", 60, least=0, most=86_400)),
        enforce=reader.one_of("DEPLOY_REGISTRY_ECR_POLICY_MODE", "enforce", "observe") == "enforce",
        allow_public_policy=reader.switch("DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY", False),
        reconcile_interval=timedelta(minutes=reader.whole("RECONCILE_INTERVAL_MINUTES", 10, least=0, most=7 * 1_440)),
        calls_per_second=reader.whole("RECONCILE_CALLS_PER_SECOND", 20, least=1, most=10_000),
        events_queue_url=reader.queue_url("RECONCILE_EVENTS_QUEUE_URL"),
        debug=reader.switch("DEBUG", False),
        notify_allow_private=reader.switch("NOTIFY_ALLOW_PRIVATE", False),
        log_level=reader.one_of("LOG_LEVEL", "info", "debug", "warning", "error").upper(),
        log_format=reader.one_of("LOG_FORMAT", "auto", "json", "text"),
        app_origin=app_origin,
        api_origin=reader.origin("API_ORIGIN", app_origin),
        trusted_proxies=reader.whole("TRUSTED_PROXIES", 0, least=0, most=20),
        encryption_keys=reader.keys("ENCRYPTION_KEY"),
        generation=reader.optional_whole("CONFIGURATION_GENERATION", least=0, most=2**53),
        problems=tuple(reader.problems),
        warnings=tuple(reader.warnings),
    )


class _Reader:
    """Reads one variable at a time and collects the problems, so that an operator sees all of them at once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def problem(self, variable: str, message: str, hint: str) -> None:
        found = Problem(variable=variable, message=message, hint=hint)
        if found not in self.problems:  # a plain variable is read a second time for the V4 registry
            self.problems.append(found)

    def look_for_misspelt(self) -> None:
        """Warn about variables that look like settings and are not: probably a setting was misspelt."""
        known = {setting.name for setting in SETTINGS} | {f"V4_{each.name}" for each in SETTINGS if each.mirrored}
        for name in sorted(self._environment):
            meant = name.removesuffix("_FILE")
            if meant.startswith(("DEPLOY_", "V4_DEPLOY_", "RECONCILE_")) and meant not in known:
                [nearest] = difflib.get_close_matches(meant, known, n=1, cutoff=0.0)
                self._warn(name, "There is no such setting, so it has no effect.", f"Was {nearest} meant?")

    def look_for_unused(self) -> None:
        """Warn about a setting of trigger.dev's server that is accepted and not used here."""
        if self.text("DEPLOY_QUEUE_TIMEOUT_MS") is not None:
            self._warn(
                "DEPLOY_QUEUE_TIMEOUT_MS",
                "It is not used: images are built where the CLI runs, so no deployment waits in a queue.",
                "Remove it; DEPLOY_TIMEOUT_MS is for a deployment that is building or deploying.",
            )

    def text(self, name: str) -> str | None:
        try:
            value = self._environment.get(name)
        except (OSError, UnicodeDecodeError) as error:
            # The mapping reads NAME_FILE; the path may be shown, the content may not.
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            self.problem(f"{name}_FILE", f"The file cannot be read: {reason}.", "Give a path that this user can read.")
            return None
        return (value.strip() or None) if value is not None else None

    def first(self, *names: str) -> tuple[str, str | None]:
        """The first of the variables that is set: its name (for a problem's text) and its value."""
        for name in names:
            if (value := self.text(name)) is not None:
                return name, value
        return names[-1], None

    def switch(self, name: str, default: bool) -> bool:
        value = self.text(name)
        if value is None:
            return default
        if value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        self.problem(name, "The value is neither on nor off.", f"Write {name}=1 or {name}=0.")
        return default

    def whole(self, name: str, default: int, *, least: int, most: int) -> int:
        value = self.text(name)
        if value is None:
            return default
        # isdecimal() and int() also accept digits of other scripts, so the value must be ASCII too.
        if value.isascii() and value.isdecimal() and len(value) <= 16 and least <= int(value) <= most:
            return int(value)
        words = f"The value is not a whole number from {least:,} to {most:,}."
        self.problem(name, words, f"For example {name}={default}.")
        return default

    def optional_whole(self, name: str, *, least: int, most: int) -> int | None:
        return None if self.text(name) is None else self.whole(name, least, least=least, most=most)

    def origin(self, name: str, default: str) -> str:
        value = (self.text(name) or default).rstrip("/")
        if not _is_origin(value):
            self.problem(
                name,
                "The value is not an origin (scheme and host, no path: the CLI resolves some calls at the root).",
                f"For example {name}=https://deploy.example.com.",
            )
            return default
        return value

    def one_of(self, name: str, default: str, *others: str) -> str:
        value = (self.text(name) or default).lower()
        if value in (default, *others):
            return value
        self.problem(name, f"The value is neither {default} nor {' nor '.join(others)}.", f"Write {name}={default}.")
        return default

    def keys(self, name: str) -> tuple[str, ...]:
        keys = tuple(dict.fromkeys(part.strip() for part in _parts(self.text(name))))
        if any(len(key) < 32 for key in keys):
            self.problem(
                name,
                "A key is shorter than 32 characters.",
                "Make one: python -c 'import secrets; print(secrets.token_hex(32))'.",
            )
        return keys

    def accounts(self, name: str) -> tuple[str, ...]:
        accounts = [part.strip() for part in _parts(self.text(name))]
        for account in accounts:
            if not re.fullmatch(r"\d{12}", account, re.ASCII):
                self.problem(name, f"“{account[:40]}” is not an account id (12 digits).", f"{name}=222222222222.")
        return tuple(dict.fromkeys(accounts))

    def queue_url(self, name: str) -> str | None:
        value = self.text(name)
        if value is not None and not re.fullmatch(r"https?://[^\s/]+/\d{12}/[\w.-]{1,80}", value):
            self.problem(
                name,
                "The value is not the URL of an SQS queue.",
                f"For example {name}=https://sqs.us-east-1.amazonaws.com/111111111111/registry-admin.",
            )
            return None
        return value

    def platforms(self) -> str:
        name = "DEPLOY_IMAGE_PLATFORM"
        platforms = [part.strip() for part in (self.text(name) or "linux/amd64").split(",") if part.strip()]
        for platform in platforms:
            if not re.fullmatch(r"[a-z0-9]+/[a-z0-9_]+(/v[0-9]+)?", platform):
                self.problem(name, f"“{platform[:40]}” is not a platform.", f"For example {name}=linux/amd64.")
        return ",".join(platforms)

    def registry(self, prefix: str) -> RegistryConfig:
        def names(name: str) -> tuple[str, ...]:
            return (prefix + name, name) if prefix else (name,)

        host_name, host = self.first(*names("DEPLOY_REGISTRY_HOST"))
        host = host.lower() if host is not None else None  # host names ignore case, and we compare them
        if host is not None and not images.is_registry_host(host):
            self.problem(
                host_name,
                "The value is not a registry host (no scheme, no path).",
                f"For example {host_name}=111111111111.dkr.ecr.us-east-1.amazonaws.com.",
            )
            host = None
        namespace_name, namespace = self.first(*names("DEPLOY_REGISTRY_NAMESPACE"))
        if namespace is not None and not images.is_namespace(namespace):
            self.problem(
                namespace_name,
                "The value cannot begin a repository name (lower case letters, digits, . _ - and /).",
                f"For example {namespace_name}=trigger.",
            )
            namespace = None
        role = self._role(*self.first(*names("DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN")))
        push_role = self._role(*self.first(*names("DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN")))
        kms_name, kms = self.first(*names("DEPLOY_REGISTRY_ECR_KMS_KEY"))
        if kms is not None and not _KMS_KEY.fullmatch(kms):
            self.problem(
                kms_name,
                "The value is neither the ARN nor the id nor an alias of a KMS key.",
                f"For example {kms_name}=arn:aws:kms:us-east-1:111111111111:key/11111111-2222-3333-4444-555555555555.",
            )
        policy_name, policy = self.first(*names("DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY"))
        lifecycle_name, lifecycle = self.first(*names("DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY"))
        self._json_object(policy_name, policy, example=POLICY_EXAMPLE)
        if lifecycle is not None and self._json_object(lifecycle_name, lifecycle, example="'{\"rules\":[…]}'"):
            for breach in ecr_rules.lifecycle_breaches(lifecycle):
                self.problem(lifecycle_name, breach.message, breach.hint)
        return RegistryConfig(
            host=host or "localhost:5000",
            namespace=namespace or "trigger",
            username=self.first(*names("DEPLOY_REGISTRY_USERNAME"))[1],
            password=self.first(*names("DEPLOY_REGISTRY_PASSWORD"))[1],
            default_repository_policy=policy,
            tags=self._tags(*self.first(*names("DEPLOY_REGISTRY_ECR_TAGS"))),
            assume_role_arn=role,
            assume_role_external_id=self.first(*names("DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID"))[1],
            lifecycle_policy=lifecycle or DEFAULT_LIFECYCLE_POLICY,
            kms_key=kms,
            consumer_accounts=self.accounts("DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS"),
            push_role_arn=push_role,
            probe_role_arns=self._roles("DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS"),
        )

    def _role(self, name: str, role: str | None) -> str | None:
        if role is None or re.fullmatch(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,576}", role, re.ASCII):
            return role
        self.problem(
            name,
            "The value is not the ARN of a role.",
            f"For example {name}=arn:aws:iam::111111111111:role/registry-admin.",
        )
        return None

    def _roles(self, name: str) -> tuple[str, ...]:
        roles = (self._role(name, part.strip()) for part in _parts(self.text(name)))
        return tuple(dict.fromkeys(role for role in roles if role))

    def _json_object(self, name: str, value: str | None, *, example: str) -> bool:
        """Report a text that is not a JSON object. The problem has the place, not the text (it may be secret)."""
        if value is None:
            return True
        hint = f"For example {name}={example}; put a text of several lines in a file: {name}_FILE=/path."
        try:
            document = json.loads(value)
        except json.JSONDecodeError as error:
            self.problem(name, f"Not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", hint)
        except (RecursionError, ValueError):
            self.problem(name, "Not JSON that can be read: too deep, or a number too long.", hint)
        else:
            if isinstance(document, dict):
                return True
            self.problem(name, "The JSON is not an object.", hint)
        return False

    def _tags(self, name: str, value: str | None) -> tuple[tuple[str, str], ...]:
        tags: dict[str, str] = {}
        for part in _parts(value):
            key, _, content = (piece.strip() for piece in part.partition("="))
            if not key:
                self._warn(
                    name,
                    "An entry without a key was skipped.",
                    f"An entry has the form key=value: {name}=team=platform.",
                )
                continue
            tags[key] = content
        for breach in ecr_rules.tag_breaches(tags.items()):
            self.problem(name, breach.message, f"{breach.hint} For example {name}=team=platform.")
        return tuple(sorted(tags.items()))

    def _warn(self, variable: str, message: str, hint: str) -> None:
        found = Problem(variable=variable, message=message, hint=hint)
        if found not in self.warnings:
            self.warnings.append(found)


def _is_origin(text: str) -> bool:
    """Whether the text is a scheme, a host and optionally a port, and nothing else."""
    try:
        parts = urlsplit(text)
        named = bool(parts.hostname) and parts.port != 0  # an invalid port raises
    except ValueError:
        return False
    return named and re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?", text) is not None


def _parts(value: str | None) -> Iterator[str]:
    """The comma-separated parts. Blank parts (a trailing comma) are left out."""
    return (part for part in (value or "").split(",") if part.strip())


def env_example() -> str:
    """The text of `.env.example`: every setting, commented out, with its default or an example."""
    lines = [
        "# Every setting of Registry Admin. Copy this file to .env and remove the # from the lines that you need.",
        "# A variable of the environment overrides the file.",
        "# NAME_FILE=/path instead of NAME reads the value from a file: for secrets, and for JSON of several lines.",
        "# All text after the = is the value: a comment cannot follow it.",
    ]
    for setting in SETTINGS:
        lines += ["", f"# {setting.says}"]
        if setting.mirrored:
            lines.append(f"# V4_{setting.name}: the same for deploys by 4.x CLIs; unset: this setting is used.")
        lines.append(f"#{setting.name}={setting.example or setting.default}")
    return "\n".join(lines) + "\n"
