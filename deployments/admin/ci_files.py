"""The file that a CI system or a cluster needs to deploy by a trust policy, ready to be copied.

docs/ci.md shows the same files with made-up names; a test compares them. Sources: docs.github.com “OpenID Connect
reference” (ACTIONS_ID_TOKEN_REQUEST_URL and _TOKEN, `id-token: write`), docs.gitlab.com “OpenID Connect (OIDC)
Authentication Using ID Tokens” (`id_tokens`, `aud`), kubernetes.io “Configure Service Accounts for Pods”
(`serviceAccountToken`, `audience`, `expirationSeconds` of at least 600).
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

from deployments.models import TrustKind

NO_CLAIMS: Mapping[str, str] = {}
#: Shell: `$token` → TRIGGER_ACCESS_TOKEN. The token is on no command line, where others on the machine could read it.
#: curl writes the answer of each attempt, one after the other, so the last JSON object counts.
_EXCHANGE = """\
answer=$$(printf '{"token": "%s", "projectRef": "$ref", "environment": "$environment"}' "$$token" |
  curl --silent --show-error --fail-with-body --retry 3 --header 'Content-Type: application/json' \\
    --data @- $server/api/v1/auth/oidc) || { echo "$$answer"; exit 1; }
key=$$(printf %s "$$answer" |
  node -p 'JSON.parse(String(require("fs").readFileSync(0)).split(/(?<=})(?={)/).pop()).key')"""

_GITHUB = """\
on:
  $trigger
permissions:
  contents: read
  id-token: write  # the job may ask GitHub for its token
jobs:
  deploy:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-node@v4
        with:
          node-version: 22
      - run: npm ci
      - name: Exchange the token of this job for a key of one deployment
        run: |
          token=$$(curl --silent --show-error --fail --retry 3 \\
            --header "Authorization: bearer $$ACTIONS_ID_TOKEN_REQUEST_TOKEN" \\
            --get --data-urlencode "audience=$server" "$$ACTIONS_ID_TOKEN_REQUEST_URL" |
            node -p 'JSON.parse(require("fs").readFileSync(0)).value')
          $exchange
          echo "::add-mask::$$key"
          echo "TRIGGER_ACCESS_TOKEN=$$key" >> "$$GITHUB_ENV"
      - run: npx trigger.dev@latest deploy --env $environment$branch
        env:
          TRIGGER_API_URL: $api
"""

_GITLAB = """\
deploy:
  image: registry.example.com/node-with-docker-buildx:22
  id_tokens:
    REGISTRY_ADMIN_TOKEN:
      aud: $server
  rules:
    - if: $trigger
  variables:
    TRIGGER_API_URL: $api
  script:
    - npm ci
    - |
      token=$$REGISTRY_ADMIN_TOKEN
      $exchange
      export TRIGGER_ACCESS_TOKEN=$$key
    - npx trigger.dev@latest deploy --env $environment$branch
"""

_KUBERNETES = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: deploy
  namespace: $namespace
spec:
  backoffLimit: 0
  template:
    spec:
      serviceAccountName: $account
      restartPolicy: Never
      containers:
        - name: deploy
          image: registry.example.com/our-project-with-buildx:latest
          workingDir: /app
          env:
            - name: TRIGGER_API_URL
              value: $api
          command:
            - sh
            - -ec
            - |
              token=$$(cat /var/run/secrets/registry-admin/token)
              $exchange
              export TRIGGER_ACCESS_TOKEN=$$key
              npx trigger.dev@latest deploy --env $environment
          volumeMounts:
            - name: registry-admin
              mountPath: /var/run/secrets/registry-admin
              readOnly: true
      volumes:
        - name: registry-admin
          projected:
            sources:
              - serviceAccountToken:
                  audience: $server
                  expirationSeconds: 600
                  path: token
"""

_OTHER = """\
# $$token: the signed token of the job, with the audience $server
$exchange
export TRIGGER_API_URL=$api TRIGGER_ACCESS_TOKEN=$$key
npx trigger.dev@latest deploy --env $environment$branch
"""

_FILES = {
    TrustKind.GITHUB: (_GITHUB, 10),
    TrustKind.GITLAB: (_GITLAB, 6),
    TrustKind.KUBERNETES: (_KUBERNETES, 14),
    TrustKind.OTHER: (_OTHER, 0),
}
#: Kind → what starts a job, for the branch of a main version, and for a preview.
_TRIGGERS = {
    TrustKind.GITHUB: ("push:\n    branches: [main]", "pull_request:"),
    TrustKind.GITLAB: ("$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH", '$CI_PIPELINE_SOURCE == "merge_request_event"'),
}
_BRANCHES = {
    TrustKind.GITHUB: ' --branch "$GITHUB_HEAD_REF"',
    TrustKind.GITLAB: ' --branch "$CI_COMMIT_REF_NAME"',
    TrustKind.OTHER: " --branch NAME",
}


def ci_file(
    kind: str, *, server: str, api: str, ref: str, environment: str, claims: Mapping[str, str] = NO_CLAIMS
) -> str:
    """The file for a policy of this kind. `server`: the audience; `ref`, `environment`, `claims`: of the policy."""
    of_kind = TrustKind(kind)
    template, indent = _FILES[of_kind]
    is_preview = environment == "preview"
    names = {"server": server, "api": api, "ref": ref, "environment": environment}
    exchange = Template(_EXCHANGE).substitute(names).replace("\n", "\n" + " " * indent)
    return Template(template).substitute(
        names,
        exchange=exchange,
        namespace=claims.get("kubernetes.io/namespace", "NAMESPACE"),
        account=claims.get("kubernetes.io/serviceaccount/name", "SERVICE-ACCOUNT"),
        trigger=_TRIGGERS.get(of_kind, ("", ""))[is_preview],
        branch=_BRANCHES.get(of_kind, "") if is_preview else "",
    )
