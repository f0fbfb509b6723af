"""The Helm chart, rendered by the real helm and held against the schemas of Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deployments.settings_table import SECRETS
from tests.deploy import helm

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(helm.missing()), reason=helm.missing())]
KUBERNETES = ("1.27", "1.37")  # the oldest that the chart admits, and the newest whose schemas the package has
LEAST: Mapping[str, Any] = {
    "image": {"repository": "registry.example.com/registry-admin"},
    "settings": {
        "APP_ORIGIN": "https://deploy.example.com",
        "DEPLOY_REGISTRY_HOST": "111111111111.dkr.ecr.us-east-1.amazonaws.com",
    },
    "secret": {"name": "registry-admin"},
}
POLICY = '{"Statement": [{"Principal": "${aws:username}"}]}'
FULL: Mapping[str, Any] = {
    "image": {**LEAST["image"], "tag": "of-a-test"},
    "imagePullSecrets": [{"name": "pull"}],
    "settings": {**LEAST["settings"], "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY},
    "secret": {"name": "keys", "keys": ["SECRET_KEY", "DATABASE_URL", "METRICS_KEY"]},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::111111111111:role/registry-admin"}},
    "events": {"enabled": True},
    "ingress": {"enabled": True, "host": "deploy.example.com", "tlsSecret": "certificate"},
    "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"a": "b"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
}


@pytest.fixture(scope="module")
def program() -> Path:
    return helm.install()


def written(folder: Path, values: Mapping[str, Any]) -> Path:
    (folder / "values.yaml").write_text(yaml.safe_dump(dict(values)))
    return folder / "values.yaml"


@pytest.mark.parametrize("values", [LEAST, FULL], ids=["least", "full"])
def test_helm_finds_nothing_wrong_and_kubernetes_knows_each_field(
    values: Mapping[str, Any], program: Path, tmp_path: Path
) -> None:
    file = written(tmp_path, values)

    linted = helm.run(program, "lint", "--strict", values=file)
    objects = helm.rendered(program, file)

    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert len(objects) == (12 if values is FULL else 9)
    for name, each in objects.items():
        if name.startswith("ServiceMonitor/"):  # a type of the Prometheus operator, whose schema is not Kubernetes's
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(each, version, strict=True)


def test_every_process_runs_confined_and_has_forty_seconds_to_end(program: Path, tmp_path: Path) -> None:
    objects = helm.rendered(program, written(tmp_path, FULL))
    pods = {name: each["spec"]["template"] for name, each in objects.items() if "template" in each.get("spec", {})}

    assert sorted(pods) == ["Deployment/events", "Deployment/web", "Deployment/worker", "Job/migrate"]
    for name, pod in pods.items():
        [container] = pod["spec"]["containers"]
        assert container["args"] == [name.partition("/")[2]]
        assert container["image"] == "registry.example.com/registry-admin:of-a-test"
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["terminationGracePeriodSeconds"] == 40
        variables = {each["name"]: each["value"] for each in container["env"]}
        assert variables["SECRET_KEY_FILE"] == "/run/secrets/registry-admin/SECRET_KEY"
        assert variables["DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY"] == POLICY
        assert variables["CONFIGURATION_GENERATION"] == "1"
        assert not set(variables) & set(SECRETS)
    web = pods["Deployment/web"]["spec"]["containers"][0]
    assert web["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert web["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert web["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    checked = pods["Deployment/worker"]["spec"]["containers"][0]["livenessProbe"]["exec"]["command"]
    assert checked == ["registry-admin", "worker", "--check"]


def test_the_migrations_run_before_the_processes_and_need_nothing_that_the_chart_makes(
    program: Path, tmp_path: Path
) -> None:
    job = helm.rendered(program, written(tmp_path, FULL))["Job/migrate"]

    # Helm makes the service account and the rest only after such a hook.
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert "serviceAccountName" not in job["spec"]["template"]["spec"]
    assert [each["name"] for each in job["spec"]["template"]["spec"]["volumes"]] == ["secrets", "tmp", "ca"]


def test_the_role_the_ingress_and_the_monitor_are_as_the_values_say(program: Path, tmp_path: Path) -> None:
    objects = helm.rendered(program, written(tmp_path, FULL))

    assert objects["ServiceAccount/"]["metadata"]["annotations"] == FULL["serviceAccount"]["annotations"]
    assert objects["Deployment/worker"]["spec"]["template"]["spec"]["serviceAccountName"] == "shop-registry-admin"
    annotations = objects["Ingress/"]["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == "64m"
    [endpoint] = objects["ServiceMonitor/"]["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "keys", "key": "METRICS_KEY"}}
    web = objects["NetworkPolicy/web"]["spec"]
    assert web["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}], "from": FULL["networkPolicy"]["from"]}]
    # The other policy admits nobody to any process, so the worker and events have no open port.
    assert "ingress" not in objects["NetworkPolicy/"]["spec"]
    assert "Ingress" in objects["NetworkPolicy/"]["spec"]["policyTypes"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"settings": {**LEAST["settings"], "METRICS_KEY": "a secret"}}, "/settings/METRICS_KEY"),
        ({"settings": {**LEAST["settings"], "WEB_CONCURRENCY": 2}}, "/settings/WEB_CONCURRENCY"),
        ({"secret": {"name": "keys", "keys": ["SECRET_KEY"]}}, "/secret/keys"),
        ({"ingress": {"enabled": True}}, "/ingress/host"),
        ({"webs": {}}, "webs"),
    ],
)
def test_a_wrong_value_stops_the_installation_and_is_named(
    wrong: Mapping[str, Any], named: str, program: Path, tmp_path: Path
) -> None:
    done = helm.run(program, "template", "shop", values=written(tmp_path, {**LEAST, **wrong}))

    assert done.returncode == 1
    assert named in done.stderr
