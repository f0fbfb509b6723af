"""The table of settings: one row for each variable that an operator may set.

Pure. A row has the variable's name, its notation (parser and type), its default, whether it is a secret, and its
documentation. `deployments.config.load` reads the environment through it. `.env.example` and docs/settings.md
are printed from it (`manage.py env_example`). Tests compare both with it, and the rows with the code that uses their
values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from deployments import ecr_rules, notations, service_urls
from deployments.notations import Notation

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
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":'
    '["arn:aws:iam::222222222222:root","arn:aws:iam::333333333333:root"]},'
    '"Action":["ecr:BatchGetImage","ecr:GetDownloadUrlForLayer","ecr:BatchCheckLayerAvailability"]}]}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One variable. `field`: where its value goes; empty: the variable is accepted and not used."""

    name: str
    field: str  # of `RegistryConfig` if the setting is of a registry, else of `Configuration`
    notation: Notation
    says: str  # one or two sentences, for docs/settings.md and .env.example
    default: str = ""  # as an operator would write it; the notation parses it. Empty: `notation.unset`
    default_says: str = ""  # what docs/settings.md says instead of the default
    default_from: str = ""  # the setting whose value an unset one takes
    example: str = ""
    for_new: str = ""  # what .env.example sets for a new installation, where an older one keeps the default
    secret: bool = False  # nothing of the value may be shown anywhere
    of_registry: bool = False
    mirrored: bool = False  # of a registry, and also read as V4_NAME


# IAM, CreateRole: a path of at most 512 characters, and a name of at most 64. STS refuses another ARN.
_ROLE = r"arn:aws[a-z-]*:iam::\d{12}:role/([\w+=,.@-][\w+=,.@/-]{0,509}/)?[\w+=,.@-]{1,64}"
_NOT_A_ROLE = "The value is not the ARN of a role."
_PORT = r"[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_KMS_ARN = r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:"
_KMS_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}"

SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="DEPLOY_REGISTRY_HOST",
        field="host",
        notation=notations.registry_host(),
        says="Registry host of the image refs. Repositories are created and managed only if the host is ECR (of any "
        "partition, FIPS or dual-stack).",
        default="localhost:5000",
        example="111111111111.dkr.ecr.us-east-1.amazonaws.com",
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_NAMESPACE",
        field="namespace",
        notation=notations.namespace(),
        says="First part of every repository name: NAMESPACE/PROJECTREF.",
        default="trigger",
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_USERNAME",
        field="username",
        notation=notations.free_text(),
        says="User name for a registry that is not ECR.",
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_PASSWORD",
        field="password",
        notation=notations.free_text(),
        says="Password for a registry that is not ECR.",
        secret=True,
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY",
        field="default_repository_policy",
        notation=notations.json_object(),
        says="Repository policy (IAM JSON) that every repository gets when it is created. For a long policy use _FILE. "
        "Removing the setting deletes no repository's policy.",
        example=POLICY_EXAMPLE,
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_TAGS",
        field="tags",
        notation=notations.aws_tags(),
        says="AWS tags of every repository; a key without = gets an empty value. The AWS CLI's notations are read too.",
        example="team=platform,managed-by=registry-admin",
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN",
        field="assume_role_arn",
        notation=notations.pattern("ARN of a role", _ROLE, _NOT_A_ROLE),
        says="Role to assume for ECR. Unset: this process's own AWS credentials are used.",
        example="arn:aws:iam::111111111111:role/registry-admin",
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID",
        field="assume_role_external_id",
        # AWS STS, AssumeRole: ExternalId, 2 to 1,224 of these characters. Others never worked: STS refused every call.
        notation=notations.pattern(
            "external id",
            r"[\w+=,.@:/-]{2,1224}",
            "The value is not an external id: 2 to 1,224 letters, digits and _ + = , . @ : / -.",
            "Give the value of sts:ExternalId in the role's trust policy.",
        ),
        says="External id that the role's trust policy requires.",
        secret=True,
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN",
        field="push_role_arn",
        notation=notations.pattern("ARN of a role", _ROLE, _NOT_A_ROLE),
        says="Role that is assumed to make the registry credentials of a deploy, which are limited to its repository.",
        default_says="the role above, or a federated session of the IAM user that this server runs as",
        example="arn:aws:iam::111111111111:role/registry-admin-push",
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_BASE_REPOSITORIES",
        field="base_repositories",
        # A repository name (ECR, CreateRepository), or its characters and the * of IAM.
        notation=notations.list_of(
            "names or patterns, comma-separated",
            r"(?=.*\*)[a-z][a-z0-9._/*-]{0,255}|"
            r"(?=[a-z].{0,255}$)(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*",
            "the name or the pattern of a repository",
        ),
        says="Repositories of the same registry from which builds may pull base images: the registry credentials of a "
        "deploy pull from them and never push. * stands for any characters. No pattern may match a name below the "
        "namespace.",
        example="platform/*,docker-hub/library/node",
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY",
        field="lifecycle_policy",
        notation=notations.json_object(ecr_rules.lifecycle_breaches),
        says="Lifecycle policy (ECR's JSON).",
        default=DEFAULT_LIFECYCLE_POLICY,
        default_says="untagged images expire 3 days after their push",
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_KMS_KEY",
        field="kms_key",
        notation=notations.pattern(
            "ARN, id or alias",
            rf"({_KMS_ARN}key/|key/)?({_KMS_ID})|({_KMS_ARN})?alias/[A-Za-z0-9:/_-]{{1,250}}",  # KMS, CreateAlias
            "The value is neither the ARN nor the id nor an alias of a KMS key.",
        ),
        says="KMS key that new repositories are encrypted with.",
        default_says="AES256",
        example="arn:aws:kms:us-east-1:111111111111:key/11111111-2222-3333-4444-555555555555",
        of_registry=True,
        mirrored=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_POLICY_MODE",
        field="enforce",
        notation=notations.one_of("enforce", "observe", into=lambda word: word == "enforce"),
        says="enforce writes the policy where access differs; observe never changes an existing repository.",
        default="enforce",
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_ROLLOUT",
        field="staged",
        notation=notations.one_of("at-once", "staged", into=lambda word: word == "staged"),
        says="How a changed default repository policy reaches the repositories. at-once: the next sweep writes it "
        "everywhere. staged: first to canaries, then in batches; a policy that takes access away waits for a person.",
        default="at-once",
        for_new="staged",
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_CANARY_REPOSITORIES",
        field="canaries",
        notation=notations.list_of(
            "names, comma-separated",
            r"(?=[a-z].{0,255}$)(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*",
            "the name of a repository",
        ),
        says="Repositories that get a changed default policy first. Unset: some that were deployed to least recently.",
        example="trigger/proj_canary",
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_ROLLOUT_WATCH_MINUTES",
        field="watch",
        notation=notations.minutes(least=0, most=1440),
        says="How long the canaries are watched before the batches begin. A policy that only adds pull for named "
        "accounts does not wait.",
        default="15",
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_FOREIGN_STATEMENTS",
        field="foreign_statements",
        notation=notations.one_of("keep-services", "keep", "remove"),
        says="Which statements of others stay in a repository policy beside the default policy: those of AWS services "
        "that pull; also those that let named accounts, roles and users pull; or none.",
        default="keep-services",
        of_registry=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_PREVIEW_REPOSITORIES",
        field="preview_repositories",
        notation=notations.switch(),
        says="Deploys to preview environments push to a repository of their own, NAMESPACE/PROJECTREF-preview, so that "
        "their log-in reaches neither production's tags nor its build cache. Changes image refs of new deployments.",
        default="0",
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS",
        field="consumer_accounts",
        notation=notations.list_of("account ids, comma-separated", r"\d{12}", "an account id (12 digits)"),
        says="Accounts that must be able to pull; checked at start and with each repository.",
        example="222222222222,333333333333",
        of_registry=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS",
        field="probe_role_arns",
        notation=notations.list_of("ARNs of roles, comma-separated", _ROLE, "the ARN of a role"),
        says="Roles in the consumer accounts; with each, a pull is tried before an image is promoted.",
        example="arn:aws:iam::222222222222:role/registry-admin-probe",
        of_registry=True,
    ),
    Setting(
        name="DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY",
        field="allow_public_policy",
        notation=notations.switch(),
        says="Accept a policy that opens the repositories to everyone. Almost never what you want.",
        default="0",
    ),
    Setting(
        name="DEPLOY_IMAGE_PLATFORM",
        field="image_platform",
        notation=notations.list_of(
            "platforms, comma-separated", r"[a-z0-9]+/[a-z0-9_]+(/v[0-9]+)?", "a platform", into=",".join
        ),
        says="Platforms to build for.",
        default="linux/amd64",
    ),
    Setting(
        name="DEPLOY_TIMEOUT_MS",
        field="deploy_timeout",
        notation=notations.milliseconds(least=1_000, most=7 * 86_400_000),
        says="A deployment that has been building or deploying for this long is timed out.",
        default="480000",
    ),
    Setting(
        name="DEPLOY_QUEUE_TIMEOUT_MS",
        field="",
        notation=notations.free_text("any text"),
        says="Accepted and not used, with a warning: images are built where the CLI runs, so no deployment waits in a "
        "queue.",
        example="900000",
    ),
    Setting(
        name="DEPLOY_IMAGE_VERIFICATION_ENABLED",
        field="image_verification",
        notation=notations.switch(),
        says="Promote an image only after a check that it is in the registry and can be pulled.",
        default="1",
    ),
    Setting(
        name="DEPRECATE_V3_CLI_DEPLOYS_ENABLED",
        field="refuse_v3",
        notation=notations.switch(),
        says="Refuse deploys by 3.x CLIs with an error that says to upgrade: a 3.x CLI can hang "
        "(docs/old-and-interrupted-clis.md).",
        default="0",
    ),
    Setting(
        name="CLI_LOGIN_REFUSE_UNBOUND",
        field="refuse_unbound_logins",
        notation=notations.switch(),
        says="Refuse trigger.dev login of CLIs before 4.8: they cannot prove that the person who approves the log-in "
        "also began it.",
        default="0",
    ),
    Setting(
        name="SECOND_FACTOR_REQUIRED",
        field="second_factor_required",
        notation=notations.switch(),
        says="A person who logs in with a password and has no second factor sets one up before the session begins.",
        default="0",
    ),
    Setting(
        name="RECONCILE_FRESHNESS_SECONDS",
        field="freshness",
        notation=notations.seconds(least=0, most=86_400),
        says="A deploy does not check a repository again that was checked within this time; 0: every deploy checks.",
        default="60",
    ),
    Setting(
        name="RECONCILE_INTERVAL_MINUTES",
        field="reconcile_interval",
        notation=notations.minutes(least=0, most=7 * 1_440),
        says="How often a sweep checks all repositories (a share while change events are proven complete); 0: never.",
        default="10",
    ),
    Setting(
        name="RECONCILE_FULL_PASS_HOURS",
        field="full_pass",
        notation=notations.hours(least=1, most=168),
        says="Sweeps read every part of each repository (also lifecycle policy, AWS tags, encryption) at least once in "
        "this time; the repository policy at each sweep, unless change events are proven complete.",
        default="6",
        of_registry=True,
    ),
    Setting(
        name="ROLLBACK_TARGETS",
        field="rollback_targets",
        notation=notations.whole(least=0, most=20, unit="versions"),
        says="How many older deployed versions of each environment must stay ready for a roll-back; their images are "
        "watched like the image of the current version.",
        default="3",
        of_registry=True,
    ),
    Setting(
        name="RECONCILE_CALLS_PER_SECOND",
        field="calls_per_second",
        notation=notations.whole(least=1, most=10_000, unit="calls"),
        says="Calls to AWS per second that all sweeps together may make; fewer while AWS throttles.",
        default="20",
    ),
    Setting(
        name="RECONCILE_EVENTS_QUEUE_URL",
        field="events_queue_url",
        notation=notations.pattern(
            "URL of an SQS queue", r"https?://[^\s/@]+/\d{12}/[\w.-]{1,80}", "The value is not the URL of an SQS queue."
        ),
        says="SQS queue with CloudTrail's ECR calls; with it, drift is found within seconds.",
        example="https://sqs.us-east-1.amazonaws.com/111111111111/registry-admin",
    ),
    Setting(
        name="RETENTION_ERROR_TEXTS_DAYS",
        field="keep_error_texts",
        notation=notations.days_kept(),
        says="Error texts of deployments that are longer than 10 kB are shortened to their start and end after "
        "this time.",
        default="90",
    ),
    Setting(
        name="RETENTION_TASK_LISTS_DAYS",
        field="keep_task_lists",
        notation=notations.days_kept(),
        says="The list of tasks of a deployment is emptied after this time. Those of current deployments and of "
        "roll-back targets stay, and every deployed version can be promoted.",
        default="90",
    ),
    Setting(
        name="RETENTION_HISTORY_DAYS",
        field="keep_history",
        notation=notations.days_kept(),
        says="Entries of a repository's history are deleted after this time. The newest entry with each policy "
        "text stays.",
        default="90",
    ),
    Setting(
        name="RETENTION_SWEEPS_DAYS",
        field="keep_sweeps",
        notation=notations.days_kept(),
        says="Sweeps are deleted with their findings after this time; scheduled sweeps without findings after two "
        "days.",
        default="90",
    ),
    Setting(
        name="RETENTION_NOTIFICATIONS_DAYS",
        field="keep_notifications",
        notation=notations.days_kept(),
        says="Messages to notification channels are deleted after this time, except those that still wait.",
        default="90",
    ),
    Setting(
        name="RETENTION_DEPLOYMENTS_DAYS",
        field="keep_deployments",
        notation=notations.days_kept(),
        says="Deployments are deleted after this time, except current ones, roll-back targets, and those that have "
        "not ended.",
        default="0",
    ),
    Setting(
        name="RETENTION_PROMOTIONS_DAYS",
        field="keep_promotions",
        notation=notations.days_kept(),
        says="The record that a deployment became current is deleted after this time, except that of the current one.",
        default="0",
    ),
    Setting(
        name="RETENTION_AUDIT_DAYS",
        field="keep_audit",
        notation=notations.days_kept(),
        says="Audit entries are deleted after this time. Export them first.",
        default="0",
    ),
    Setting(
        name="CONFIGURATION_GENERATION",
        field="generation",
        notation=notations.whole(least=0, most=2**53),
        says="Number of these settings, higher for each newer version (a Helm chart's revision). All processes use the "
        "settings with the highest number. Unset: the settings that were started last for the first time.",
        example="7",
    ),
    Setting(
        name="APP_ORIGIN",
        field="app_origin",
        notation=notations.origin(),
        says="Origin at which people reach this server; the links that the CLI prints begin with it.",
        default="http://localhost:8000",
    ),
    Setting(
        name="API_ORIGIN",
        field="api_origin",
        notation=notations.origin(),
        says="Origin at which the CLI and the image build reach this server.",
        default_from="APP_ORIGIN",
    ),
    Setting(
        name="DATABASE_URL",
        field="database",
        notation=service_urls.database_url(),
        says="Database: PostgreSQL or an SQLite file. With PostgreSQL, SECRET_KEY is required.",
        default_says="the SQLite file db.sqlite3 in STATE_DIR",
        example="postgres://user:password@host:5432/registry_admin",
        secret=True,
    ),
    Setting(
        name="STATE_DIR",
        field="state_dir",
        notation=notations.pattern("absolute path", r"/[^\0\n]*", "The value is not an absolute path."),
        says="Folder of the files that this program makes: the SQLite database and the signing key, where their "
        "settings are unset, and an installed package's static files. It is made with mode 0700 when it is needed.",
        default_says="state, beside manage.py; for an installed package ~/.local/state/registry-admin",
        example="/var/lib/registry-admin",
    ),
    Setting(
        name="SECRET_KEY",
        field="secret_key",
        notation=notations.free_text(),
        says="Django's signing key. With the SQLite default it is made at the first start, in the 0600 file "
        "secret_key in STATE_DIR.",
        secret=True,
    ),
    Setting(
        name="SECRET_KEY_FALLBACKS",
        field="secret_key_fallbacks",
        notation=notations.texts(),
        says="Other signing keys, which verify sessions and decrypt stored secrets, while SECRET_KEY is replaced "
        "(docs/keys.md).",
        secret=True,
    ),
    Setting(
        name="ENCRYPTION_KEY",
        field="encryption_keys",
        notation=notations.keys(),
        says="Key that encrypts stored secrets; 32 characters or more. Older keys follow, comma-separated, until "
        "manage.py reencrypt has run.",
        default_says="SECRET_KEY",
        secret=True,
    ),
    Setting(
        name="SSO_ISSUER",
        field="sso_issuer",
        notation=notations.issuer(),
        says="Issuer of the OpenID provider for single sign-on (docs/single-sign-on.md).",
        default_says="no single sign-on",
        example="https://id.example.com/realms/company",
    ),
    Setting(
        name="SSO_CLIENT_ID",
        field="sso_client_id",
        notation=notations.free_text(),
        says="Client id that the OpenID provider gave this installation.",
        example="registry-admin",
    ),
    Setting(
        name="SSO_CLIENT_SECRET",
        field="sso_client_secret",
        notation=notations.free_text(),
        says="Client secret of the OpenID provider. Unset: a public client, with PKCE only.",
        secret=True,
    ),
    Setting(
        name="SSO_NAME",
        field="sso_name",
        notation=notations.free_text(),
        says="What the log-in page calls the OpenID provider.",
        default="single sign-on",
        example="Okta",
    ),
    Setting(
        name="SSO_SCOPES",
        field="sso_scopes",
        notation=notations.pattern(
            "words", r"openid( [!#-\[\]-~]+)*", "The value is not a list of scopes that begins with openid."
        ),
        says="Scopes that are asked for, with blanks between them. Some providers need one more for the groups.",
        default="openid profile email",
        example="openid profile email groups",
    ),
    Setting(
        name="SSO_GROUPS_CLAIM",
        field="sso_groups_claim",
        notation=notations.free_text(),
        says="Claim with a person's groups, in the id token or in the answer of the userinfo endpoint. A name with "
        "dots also leads into objects.",
        default="groups",
        example="realm_access.roles",
    ),
    Setting(
        name="SSO_GROUPS",
        field="sso_groups",
        notation=notations.text_by_text(),
        says="Which group of the OpenID provider gives which group of the console (viewer, operator, admin, or one of "
        "yours). They are read at each log-in; who is in none of them has no access.",
        example='{"engineering":"viewer","platform":"operator","platform-admins":"admin"}',
    ),
    Setting(
        name="SSO_TOKEN_DAYS",
        field="sso_token_lifetime",
        notation=notations.days(least=1, most=3_650),
        says="Personal access tokens of a person with single sign-on stop working this long after the person's last "
        "single sign-on.",
        default="30",
    ),
    Setting(
        name="PASSWORD_LOG_IN",
        field="password_log_in",
        notation=notations.switch(),
        says="Allow log-ins with a password. 0 takes effect once an administrator has logged in by single sign-on. "
        "manage.py break_glass makes a link for one log-in without either.",
        default="1",
    ),
    Setting(
        name="EMAIL_URL",
        field="mail",
        notation=service_urls.mail_url(),
        says="Mail server for notifications: smtp+tls:// (STARTTLS), smtp+ssl:// or smtp://.",
        default_says="no mail",
        example="smtp+tls://user:password@mail.example.com:587",
        secret=True,
    ),
    Setting(
        name="EMAIL_FROM",
        field="email_from",
        notation=notations.sender(),
        says="Sender of notifications by mail.",
        default="registry-admin@localhost",
        example="Registry Admin <registry-admin@example.com>",
    ),
    Setting(
        name="NOTIFY_ALLOW_PRIVATE",
        field="notify_allow_private",
        notation=notations.switch(),
        says="Allow notifications to private and loopback addresses, any port and plain http. Link-local and metadata "
        "addresses stay forbidden.",
        default="0",
    ),
    Setting(
        name="METRICS_KEY",
        field="metrics_key",
        notation=notations.free_text(),
        says="Key for /metrics (Prometheus) and /status.json, sent as Authorization: Bearer ….",
        default_says="both are off",
        secret=True,
    ),
    Setting(
        name="DEBUG",
        field="debug",
        notation=notations.switch(),
        says="Django's debug pages. Never in production.",
        default="0",
    ),
    Setting(
        name="BIND",
        field="bind",
        notation=notations.pattern(
            "address:port or unix:/path",
            rf"unix:/[^\0\n]+|fd://\d+|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):({_PORT})",
            "The value is neither an address with a port (at most 65535) nor the path of a socket.",
        ),
        says="Where the web process listens. In a container all addresses: 0.0.0.0:8000.",
        default="127.0.0.1:8000",
        example="0.0.0.0:8000",
    ),
    Setting(
        name="WEB_CONCURRENCY",
        field="web_processes",
        notation=notations.whole(least=1, most=64, unit="processes"),
        says="Number of web processes that answer requests.",
        default_says="one for each CPU that the process may use (cgroup limits count), at most 8, and at most as "
        "many as the cgroup's memory allows",
        example="2",
    ),
    Setting(
        name="WEB_THREADS",
        field="web_threads",
        # Half of the threads may wait for AWS, and a quarter of them for a place to do so (D-thread-limit).
        notation=notations.whole(least=4, most=64, unit="threads"),
        says="Threads of each web process. Each keeps a connection to the database (docs/sizing.md).",
        default="8",
    ),
    Setting(
        name="ALLOWED_HOSTS",
        field="allowed_hosts",
        notation=notations.host_names(),
        says="Host names that this server answers to; the hosts of the two origins are added.",
    ),
    Setting(
        name="TRUSTED_PROXIES",
        field="trusted_proxies",
        notation=notations.whole(least=0, most=20),
        says="Number of proxies in front that add to X-Forwarded-For; the client's address is taken from that header.",
        default="0",
    ),
    Setting(
        name="PROXY_SCHEME_HEADER",
        field="proxy_scheme_header",
        notation=notations.pattern(
            "name of a header", r"[A-Za-z][A-Za-z0-9-]{0,63}", "The value is not the name of a header."
        ),
        says="Header in which the proxy says https, usually X-Forwarded-Proto. The proxy must replace the header of a "
        "client's request. Without it, HSTS is sent and HTTPS_REDIRECT works only behind a proxy on this host.",
        example="X-Forwarded-Proto",
    ),
    Setting(
        name="HTTPS_REDIRECT",
        field="https_redirect",
        notation=notations.switch(),
        says="Redirect pages from http to https, if the proxy does not do it. Never redirected: the API, API_ORIGIN if "
        "it differs from APP_ORIGIN, /healthz, /readyz, /metrics and /status.json.",
        default="0",
    ),
    Setting(
        name="STATIC_ROOT",
        field="static_root",
        notation=notations.free_text("path"),
        says="Folder into which collectstatic, and a start of registry-admin web after an upgrade, copy the console's "
        "static files. If nothing can be written there, they are served as they are, there or in the package.",
        default_says="staticfiles, beside manage.py; for an installed package static, in STATE_DIR",
        example="/var/lib/registry-admin/static",
    ),
    Setting(
        name="LOG_LEVEL",
        field="log_level",
        notation=notations.one_of("info", "debug", "warning", "error", into=str.upper),
        says="Level of this program's log. DEBUG adds probes, polls and reads from AWS.",
        default="INFO",
    ),
    Setting(
        name="LOG_FORMAT",
        field="log_format",
        notation=notations.one_of("auto", "json", "text"),
        says="Form of each log line; auto is text on a terminal, else json.",
        default="auto",
    ),
)

BY_NAME = {setting.name: setting for setting in SETTINGS}
SECRETS = tuple(
    name
    for setting in SETTINGS
    if setting.secret
    for name in (setting.name, f"V4_{setting.name}")[: 1 + setting.mirrored]
)


def env_example() -> str:
    """The text of `.env.example`: every setting with a default or an example. Only those with `for_new` are set."""
    lines = [
        "# Every setting of Registry Admin. Copy this file to .env and remove the # from the lines that you need.",
        "# A variable of the environment overrides the file.",
        "# NAME_FILE=/path instead of NAME reads the value from a file: for secrets, and for JSON of several lines.",
        "# All text after the = is the value: no comment can follow it. Write it without quotes, because docker's",
        "# --env-file would keep them; only in a shell JSON stands in single quotes.",
    ]
    for setting in SETTINGS:
        default = setting.default_says or setting.default_from
        lines += ["", f"# {setting.says}" + (f" Default: {default}." if default else "")]
        if setting.mirrored:
            lines.append(f"# V4_{setting.name}: the same for deploys by 4.x CLIs; unset: this setting is used.")
        value = setting.example or ("" if setting.default_says else setting.default)
        lines.append(f"{setting.name}={setting.for_new}" if setting.for_new else f"#{setting.name}={value}")
    return "\n".join(lines) + "\n"


def readme_table() -> str:
    """The table of docs/settings.md."""
    lines = ["| setting | value | default | what it is |", "|---|---|---|---|"]
    for setting in SETTINGS:
        written = setting.default or setting.default_from
        default = setting.default_says or (f"`{written}`" if written else "")
        also = f", `V4_{setting.name}`" if setting.mirrored else ""
        lines.append(f"| `{setting.name}`{also} | {setting.notation.words} | {default} | {setting.says} |")
    return "\n".join(lines) + "\n"
