"""The configuration: an environment mapping becomes one frozen `Configuration`.

It reads a mapping (`registry_admin.settings` is the only reader of the process's environment) and the files that the
mapping names; no network and no Django. `deployments.settings_table` says which variables there are. A malformed value
never raises here. It becomes a `Problem` with the variable's name, the place and an example, and `deployments.checks`
turns the problems into system checks that stop the start. A configuration with problems gives out no registry:
`registry` and `require` raise `ConfigurationError`, so nothing runs with half of the settings.

The names of the `DEPLOY_…` variables are those of trigger.dev's own deploy registry settings, so that an existing
`.env` works unchanged. So is the `V4_` mirror: each unset V4 variable falls back to the plain variable.
"""

from __future__ import annotations

import codecs
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

from environ import Env

from deployments.notations import Malformed, comment_after, suspicion
from deployments.policy import Keeps, WrittenGrant
from deployments.service_urls import Database, MailServer
from deployments.settings_table import BY_NAME, DEFAULT_LIFECYCLE_POLICY, SETTINGS, Setting


class ConfigurationError(Exception):
    """The configuration has problems; the text has all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why the start stops: the variable, what is wrong and where, and an example of a correct value."""

    variable: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.message} {self.hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a registry's AWS account: with the ambient credentials, or with a role that they assume.

    Permission: sts:AssumeRole on each configured role, for the identity of the ambient credentials.
    """

    role_arn: str | None = None
    external_id: str | None = field(default=None, repr=False)
    setting: str = "DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN"  # the setting that names the role, for errors


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
    foreign_statements: Keeps = "keep-services"  # the same for all registries
    push_role_arn: str | None = None
    base_repositories: tuple[str, ...] = ()  # names and patterns; the log-in of a deploy pulls from them
    probe_role_arns: tuple[str, ...] = ()  # the same for all registries
    full_pass: timedelta = timedelta(hours=6)  # the same for all registries
    rollback_targets: int = 3  # the same for all registries
    # Keys of PolicyVersion rows, where roll-outs are staged (`reconcile.policy_versions`). `active_version` None: they
    # are not, and the setting's text counts for every repository.
    active_version: int | None = None
    new_version: int | None = None  # what a new repository gets; None: the active one
    versions: tuple[tuple[int, str], ...] = field(default=(), repr=False)  # (key, text) that repositories may have
    # What the default policies that this registry has, and has had, give (`reconcile.generation`).
    written_grants: frozenset[WrittenGrant] = field(default=frozenset(), compare=False, repr=False)
    # Fields that have their default because the given value cannot be used (D-no-follow-on).
    malformed: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    # Fields that were read from the V4_ variable of the setting.
    from_v4: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    @property
    def access(self) -> Access:
        """How this program reaches the registry's account."""
        return Access(role_arn=self.assume_role_arn, external_id=self.assume_role_external_id)

    def writer(self, account: str) -> str:
        """The identity that writes repository policies: the ARN of the assumed role, else `account`, the registry's."""
        return self.assume_role_arn or account

    def variable(self, name: str) -> str:
        """The variable that a field was read from, such as V4_DEPLOY_REGISTRY_ECR_TAGS of `tags`."""
        setting = next(each for each in SETTINGS if each.of_registry and each.field == name)
        return f"V4_{setting.name}" if name in self.from_v4 else setting.name

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
            "foreign": self.foreign_statements if self.foreign_statements != "keep-services" else None,
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
    refuse_unbound_logins: bool
    second_factor_required: bool
    freshness: timedelta
    enforce: bool  # False: observe
    staged: bool  # a changed default policy is rolled out in stages
    canaries: tuple[str, ...]  # names of repositories that get a changed default policy first
    watch: timedelta  # how long the canaries are watched
    preview_repositories: bool  # preview environments have a repository of their own
    allow_public_policy: bool
    reconcile_interval: timedelta
    calls_per_second: int
    # How long rows are kept (`deployments.retention`); 0: forever.
    keep_error_texts: timedelta
    keep_task_lists: timedelta
    keep_history: timedelta
    keep_sweeps: timedelta
    keep_notifications: timedelta
    keep_deployments: timedelta
    keep_promotions: timedelta
    keep_audit: timedelta
    events_queue_url: str | None
    debug: bool
    notify_allow_private: bool
    log_level: str
    log_format: str  # auto, json or text
    app_origin: str
    api_origin: str
    trusted_proxies: int
    encryption_keys: tuple[str, ...] = field(repr=False)  # the first encrypts; empty: SECRET_KEY is used
    generation: int | None  # CONFIGURATION_GENERATION
    database: Database | None = field(repr=False)  # None: the default, an SQLite file
    secret_key: str | None = field(repr=False)
    secret_key_fallbacks: tuple[str, ...] = field(repr=False)
    sso_issuer: str | None
    sso_client_id: str | None
    sso_client_secret: str | None = field(repr=False)
    sso_name: str
    sso_scopes: str
    sso_groups_claim: str
    sso_groups: tuple[tuple[str, str], ...]  # (group of the provider, our group)
    sso_token_lifetime: timedelta
    password_log_in: bool
    mail: MailServer | None = field(repr=False)
    email_from: str
    metrics_key: str | None = field(repr=False)
    allowed_hosts: tuple[str, ...]
    proxy_scheme_header: str | None
    https_redirect: bool
    static_root: str | None
    state_dir: str | None  # an absolute path; None: the default place of `registry_admin.settings`
    bind: str  # as gunicorn's option
    web_processes: int | None  # None: as many as the machine or the container can run
    web_threads: int
    malformed: frozenset[str] = field(default=frozenset(), repr=False)  # as in `RegistryConfig`
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

    def problem_of(self, name: str) -> Problem | None:
        """Why the setting has its default instead of the given value; None if the given value could be used."""
        return next((each for each in self.problems if each.variable in (name, f"{name}_FILE")), None)

    def vault_secrets(self, secret_key: str) -> tuple[str, ...]:
        """The secrets of `deployments.access.vault`: the first encrypts, each decrypts.

        Without ENCRYPTION_KEY, SECRET_KEY encrypts. With it, SECRET_KEY and its fallbacks decrypt what they encrypted
        before (D-secret-key-fallbacks).
        """
        return (*self.encryption_keys, secret_key, *self.secret_key_fallbacks)

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


# ---------------------------------------------------------------------------------------------------- files and text


def _read_text(path: str | Path) -> str:
    """The text of a file. Raises Malformed, whose sentences contain neither the path nor the content."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        # The path may be a secret that stands where a path belongs.
        raise Malformed(
            f"The file cannot be read: {error.strerror}.", "Give the path of a file that this user can read."
        ) from None
    except ValueError:  # a NUL in the path
        raise Malformed("The value is not a path.", "Give the path of a file that this user can read.") from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        encoding = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "not UTF-8"
        raise Malformed(f"The file is {encoding} text.", "Save it as UTF-8.") from None


_ENV_LINE = re.compile(r"(?:export )?[A-Za-z_][A-Za-z0-9_]*=[^\0]*|#.*|")


def read_env_file(path: Path, *, named: bool) -> tuple[dict[str, str], tuple[Problem, ...]]:
    """The variables of a `.env` file, and why it is not read: then there are no variables.

    A wrong line is given by its number, because any line may be a secret. So the lines are checked first: environ would
    print a line that it cannot read. Of two lines with one name the second counts. `named`: an operator gave the path,
    so the file must exist.
    """
    which = "The file that ENV_FILE names" if named else "The file .env"

    def problem(message: str, hint: str) -> tuple[dict[str, str], tuple[Problem, ...]]:
        return {}, (Problem(variable="ENV_FILE", message=message, hint=hint),)

    if not named and not path.exists():
        return {}, ()
    if named and (found := suspicion("ENV_FILE", str(path))):
        return problem(*found)
    try:
        text = _read_text(path)
    except Malformed as error:
        return problem(f"{which} was ignored: {error.message}", error.hint)
    if text.startswith("\ufeff"):
        return problem(
            f"{which} begins with a byte order mark, so the whole file was ignored.",
            "Save the file as UTF-8 without a byte order mark (BOM).",
        )
    lines = [line if line.strip() else "" for line in text.splitlines()]
    wrong = [number for number, line in enumerate(lines, 1) if not _ENV_LINE.fullmatch(line)]
    if not wrong:
        values: dict[str, str] = {}

        class EnvFile(Env):  # type: ignore[misc]  # environ has no types
            ENVIRON = values

        EnvFile.read_env(StringIO("\n".join(lines)))
        return values, ()
    numbers = ", ".join(str(number) for number in wrong[:5]) + (" and more" if len(wrong) > 5 else "")
    return problem(
        f"Line {numbers} is not a setting, so the whole file was ignored. {which} is meant.",
        "A line has the form NAME=value or # comment, without a NUL; put a text of several lines in a file: "
        "NAME_FILE=/path.",
    )


# ----------------------------------------------------------------------------------------------------------- reading


def load(environment: Mapping[str, str], *, found: tuple[Problem, ...] = ()) -> Configuration:
    """Read the variables of the table of settings. An empty value means unset. Never raises.

    `found`: problems that were found before, while the environment was put together.
    """
    reader = _Reader(environment)
    reader.problems.extend(found)
    plain, v4 = reader.registry(""), reader.registry("V4_")
    same_repositories = (plain.host, plain.namespace) == (v4.host, v4.namespace)
    if same_repositories and plain.desired != v4.desired and not plain.malformed | v4.malformed:
        differing = ", ".join(name for name, value in plain.desired.items() if v4.desired[name] != value)
        reader.problem(
            "V4_DEPLOY_REGISTRY_HOST",
            f"The plain and the V4 settings have the same host and namespace but differ in: {differing}.",
            "The two would overwrite each other's repositories again and again. Make them equal, or give "
            "V4_DEPLOY_REGISTRY_NAMESPACE another value.",
        )
    for registry in (plain, v4):
        account = registry.host.partition(".")[0]  # a log-in opens nothing in another account's registry
        namespaces = dict.fromkeys(each.namespace for each in (plain, v4) if each.host.partition(".")[0] == account)
        for pattern in registry.base_repositories:
            for namespace in namespaces:
                if _reaches_below(pattern, namespace):
                    reader.problem(
                        registry.variable("base_repositories"),
                        f"“{pattern[:40]}” matches names below the namespace {namespace}.",
                        "Every log-in could pull the images of every project. Keep base images outside the namespace.",
                    )
    values = reader.fields(each for each in SETTINGS if each.field and not each.of_registry)
    reader.look_for_misspelt()
    reader.look_for_unused()
    reader.look_at_aws_variables()
    return Configuration(plain=plain, v4=v4, problems=tuple(reader.problems), warnings=tuple(reader.warnings), **values)


def _reaches_below(pattern: str, namespace: str) -> bool:
    """Whether the pattern of a repository name matches a name below the namespace."""
    literal, star, _ = pattern.partition("*")
    below = f"{namespace}/"
    return literal.startswith(below) or (star != "" and below.startswith(literal))


class _Reader:
    """Reads one variable at a time and collects the problems, so that an operator sees all of them at once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._texts: dict[str, str | None] = {}
        self._unreadable: set[str] = set()  # variables whose file cannot be read
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def problem(self, variable: str, message: str, hint: str) -> None:
        found = Problem(variable=variable, message=message, hint=hint)
        if found not in self.problems:  # a plain variable is read a second time for the V4 registry
            self.problems.append(found)

    def _warn(self, variable: str, message: str, hint: str) -> None:
        found = Problem(variable=variable, message=message, hint=hint)
        if found not in self.warnings:
            self.warnings.append(found)

    def registry(self, prefix: str) -> RegistryConfig:
        settings = [each for each in SETTINGS if each.of_registry]
        given = (each.field for each in settings if prefix and each.mirrored and self._text(prefix + each.name))
        values = self.fields(settings, prefix)
        roles = {"assume_role_arn", "push_role_arn", "probe_role_arns"}
        if "assume_role_external_id" in values["malformed"] and not any(values[role] for role in roles):
            self._excuse("DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID", prefix)  # 0.1.0 did not use it either
        return RegistryConfig(**values, from_v4=frozenset(given))

    def _excuse(self, name: str, prefix: str) -> None:
        """Make the problem of a setting, which nothing uses, a warning."""
        for found in [each for each in self.problems if each.variable in (name, prefix + name)]:
            self.problems.remove(found)
            self._warn(found.variable, found.message, found.hint)

    def fields(self, settings: Iterable[Setting], prefix: str = "") -> dict[str, Any]:
        """The values by field, and `malformed`. `prefix`: V4_, or empty."""
        values: dict[str, Any] = {}
        malformed = set()
        for setting in settings:
            try:
                values[setting.field] = self._value(setting, prefix)
            except Malformed:
                malformed.add(setting.field)
                values[setting.field] = self._default(setting)
        if any(problem.variable == "ENV_FILE" for problem in self.problems):
            malformed = set(values)  # each may have stood in the file
        return {**values, "malformed": frozenset(malformed)}

    def _value(self, setting: Setting, prefix: str = "") -> Any:
        """The value of the setting, or its default if it is unset. Raises Malformed, after it has noted the problem."""
        for name in dict.fromkeys((prefix + setting.name if setting.mirrored else setting.name, setting.name)):
            text = self._text(name)
            if name in self._unreadable:
                raise Malformed("The file cannot be read.")
            if text is not None:
                try:
                    return self._parse(setting, name, text)
                except Malformed as error:
                    for each in (error, *error.more):
                        hint = each.hint or "For example {name}={example}."
                        self.problem(name, each.message, _filled(hint, setting, name))
                    raise
        return self._value(BY_NAME[setting.default_from]) if setting.default_from else self._default(setting)

    def _default(self, setting: Setting) -> Any:
        if setting.default_from:
            setting = BY_NAME[setting.default_from]
        if not setting.default:
            return setting.notation.unset
        return setting.notation.parse(setting.default, lambda message, hint: None)

    def _parse(self, setting: Setting, name: str, text: str) -> Any:
        def warn(message: str, hint: str) -> None:
            self._warn(name, message, _filled(hint, setting, name))

        notation = setting.notation
        if not notation.own_form:
            found = suspicion(name, text, several_lines=notation.several_lines)
            if found and not notation.any_text:
                raise Malformed(*found)
            if notation.any_text and (found := found or comment_after(text)):
                warn(*found)
        return notation.parse(text, warn)

    def _text(self, name: str) -> str | None:
        """The value as it is given, in the variable or in the file that NAME_FILE names; None if it is unset."""
        if name not in self._texts:
            path = self._environment.get(f"{name}_FILE", "").strip()
            text = self._environment.get(name, "")
            try:
                if path and (found := suspicion(name, path)):
                    raise Malformed(*found)
                text = _read_text(path) if path else text
            except Malformed as error:
                self.problem(f"{name}_FILE", error.message, error.hint)
                self._unreadable.add(name)
                text = ""
            self._texts[name] = text.strip() or None
        return self._texts[name]

    def look_for_misspelt(self) -> None:
        """Warn about variables that look like settings and are not: probably a setting was misspelt."""
        known = {*BY_NAME, *(f"V4_{each.name}" for each in SETTINGS if each.mirrored)}
        for name in sorted(self._environment):
            meant = name.removesuffix("_FILE")
            # Of other characters than these the name may be a line of a file with secrets.
            if re.fullmatch(r"(DEPLOY|V4_DEPLOY|RECONCILE)_[A-Z0-9_]{1,60}", meant, re.ASCII) and meant not in known:
                [nearest] = difflib.get_close_matches(meant, known, n=1, cutoff=0.0)
                self._warn(name, "There is no such setting, so it has no effect.", f"Was {nearest} meant?")

    def look_for_unused(self) -> None:
        """Warn about a setting of trigger.dev's server that is accepted and not used here."""
        if self._text("DEPLOY_QUEUE_TIMEOUT_MS") is not None:
            self._warn(
                "DEPLOY_QUEUE_TIMEOUT_MS",
                "It is not used: images are built where the CLI runs, so no deployment waits in a queue.",
                "Remove it; DEPLOY_TIMEOUT_MS is for a deployment that is building or deploying.",
            )

    def look_at_aws_variables(self) -> None:
        """Warn about boto3's variables in a suspicious form. boto3 reads them itself, at the first call to AWS."""
        for name in sorted(self._environment):
            if re.fullmatch(r"AWS_[A-Z0-9_]{1,60}", name) and (found := suspicion(name, self._environment[name])):
                self._warn(name, *found)


def _filled(hint: str, setting: Setting, name: str) -> str:
    return hint.replace("{name}", name).replace("{example}", setting.example or setting.default)
