"""What stands under deploy/ is what Kubernetes and compose take, and fits the server that it deploys."""

import socket

import compose_spec
import httpx
import kubernetes_validate
import pytest
import yaml

from service import supervisor
from service.settings import Settings, read_settings
from tests.deploy.test_monitoring import DEPLOY
from tests.server.conftest import START_S, free_port, until

KUBERNETES = DEPLOY / "kubernetes"
CRDS = {"ServiceMonitor", "PrometheusRule", "ServingRuntime", "InferenceService", "Kustomization"}


def read(path):
    return yaml.safe_load(path.read_text())


def resources():
    """What the kustomization applies, or would with the operator there, by kind."""
    paths = [path for path in KUBERNETES.glob("*.yaml") if path.name != "adapter.yaml"]
    return {resource["kind"]: resource for resource in map(read, paths)}


DEPLOYMENT = resources()["Deployment"]["spec"]["template"]["spec"]
RUNTIME = read(DEPLOY / "kserve/servingruntime.yaml")["spec"]


def environment(container):
    return {variable["name"]: variable["value"] for variable in container.get("env", [])}


@pytest.mark.parametrize("kind", sorted(set(resources()) - CRDS))
def test_kubernetes_own_schemas_take_it_without_an_unknown_field(kind):
    kubernetes_validate.validate(resources()[kind], "1.35", strict=True)


def test_a_field_that_kubernetes_does_not_know_is_refused():
    wrong = resources()["Deployment"]
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.35", strict=True)


def test_the_containers_of_the_kserve_runtime_are_a_pod():
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "rowcast"},
        "spec": {"containers": RUNTIME["containers"], "volumes": RUNTIME["volumes"]},
    }
    kubernetes_validate.validate(pod, "1.35", strict=True)


def test_every_file_is_applied_or_named_as_one_that_needs_more():
    kustomization = (KUBERNETES / "kustomization.yaml").read_text()
    for path in KUBERNETES.glob("*.yaml"):
        assert path.name in kustomization or path.name in {"kustomization.yaml", "adapter.yaml"}, path.name


def test_selectors_name_the_pods_and_ports_of_the_deployment():
    labels = resources()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in DEPLOYMENT["containers"][0]["ports"]}
    service = resources()["Service"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    assert resources()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert resources()["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "rowcast"
    monitor = resources()["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == [
        port["name"] for port in service["spec"]["ports"]
    ]
    claim = resources()["PersistentVolumeClaim"]["metadata"]["name"]
    assert DEPLOYMENT["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim


def test_a_pod_has_the_time_that_the_server_may_take_to_end():
    (container,) = DEPLOYMENT["containers"]
    drain_s = float(environment(container)["ROWCAST_DRAIN_S"])
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert drain_s == Settings.model_fields["drain_s"].default
    assert DEPLOYMENT["terminationGracePeriodSeconds"] > pause_s + drain_s + supervisor._GRACE_S
    noticed_s = container["readinessProbe"]["periodSeconds"] * container["readinessProbe"]["failureThreshold"]
    assert pause_s >= noticed_s


@pytest.mark.parametrize("container", [DEPLOYMENT["containers"][0], RUNTIME["containers"][0]])
def test_a_container_is_as_confined_as_the_image_allows_and_its_settings_are_settings(container, monkeypatch):
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"requests", "limits"} == set(container["resources"])
    for name, value in environment(container).items():
        monkeypatch.setenv(name, value)
    read_settings()


def probes_of(container):
    probes = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
    assert {"readinessProbe", "livenessProbe"} <= probes.keys()
    return probes


@pytest.mark.server
def test_probes_ask_what_the_server_answers_at_the_port_that_it_has(start):
    server = start()
    (container,) = RUNTIME["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == Settings.model_fields["port"].default
    for name, asked in probes_of(container).items():
        assert asked["port"] in {port["name"], port["containerPort"]}
        assert server.client.get(asked["path"]).status_code == 200, name


@pytest.mark.server
def test_a_pod_is_not_killed_because_somebody_opens_too_many_connections(start):
    (container,) = DEPLOYMENT["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["http"] == Settings.model_fields["port"].default
    metrics_port = free_port()
    server = start(metrics_port=metrics_port, max_connections=1)
    server.client.close()
    held = []

    def is_full():
        held.append(socket.create_connection(("127.0.0.1", server.port)))
        live = httpx.get(f"http://127.0.0.1:{server.port}/health/live", timeout=START_S, trust_env=False)
        return live.json().get("code") == "too_many_connections"

    try:
        until(is_full)
        for name, asked in probes_of(container).items():
            assert str(ports[asked["port"]]) == environment(container)["ROWCAST_METRICS_PORT"]
            answer = httpx.get(f"http://127.0.0.1:{metrics_port}{asked['path']}", timeout=START_S, trust_env=False)
            assert answer.status_code == 200, name
    finally:
        for connection in held:
            connection.close()


def test_pods_run_as_the_image_s_user_without_a_token():
    context = DEPLOYMENT["securityContext"]
    assert (context["runAsNonRoot"], context["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in (DEPLOY.parent / "Dockerfile").read_text()
    assert (DEPLOYMENT["automountServiceAccountToken"], DEPLOYMENT["enableServiceLinks"]) == (False, False)


def test_kserve_asks_for_the_runtime_that_is_there_at_the_protocols_of_the_server():
    asked = read(DEPLOY / "kserve/inferenceservice.yaml")["spec"]["predictor"]["model"]
    assert asked["runtime"] == read(DEPLOY / "kserve/servingruntime.yaml")["metadata"]["name"]
    assert asked["modelFormat"]["name"] in {one["name"] for one in RUNTIME["supportedModelFormats"]}
    assert asked["protocolVersion"] in RUNTIME["protocolVersions"]


def test_compose_takes_its_file_and_finds_what_it_mounts():
    text = (DEPLOY / "compose.yaml").read_text()
    compose = compose_spec.PyCompose.from_yaml(text)
    compose.validate()
    with pytest.raises(ValueError, match="read_onyl"):
        compose_spec.PyCompose.from_yaml(text.replace("read_only", "read_onyl"))
    mounted = [
        volume.split(":")[0] for one in read(DEPLOY / "compose.yaml")["services"].values() for volume in one["volumes"]
    ]
    assert [path for path in mounted if path.startswith(".") and not (DEPLOY / path).exists()] == []
    (target,) = read(DEPLOY / "prometheus/prometheus.yaml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target in [f"{name}:8000" for name in compose.service_names()]
