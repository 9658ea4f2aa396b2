"""The Kubernetes manifests, without a cluster.

What is checked: Kubernetes' own kinds by its own schemas, with no field that they do not know; the fields of a
RayCluster by a schema that knows those that we use and no others, and its pods by Kubernetes'; that what refers to a
volume, a claim, a settings object, a secret's key or a label finds it; and that every variable is a setting. What only
an API server and the KubeRay operator know (defaults, admission, quotas) is not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from symadj.service.settings import Settings

FOLDER = Path(__file__).parents[2] / "docker" / "k8s"
KUBERNETES = "1.34"
Manifest = dict[str, Any]


def strictly(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


COUNT = {"type": "integer", "minimum": 0}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
POD_TEMPLATE = {"type": "object"}  # checked by Kubernetes' own schema
# As in KubeRay's API ray.io/v1 (ray-operator/apis/ray/v1/raycluster_types.go): the fields that we use, and those that
# it requires.
RAY_CLUSTER = strictly(
    ["headGroupSpec"],
    rayVersion={"type": "string"},
    headGroupSpec=strictly(
        ["rayStartParams", "template"],
        serviceType={"enum": ["ClusterIP"]},
        rayStartParams=STRINGS,
        template=POD_TEMPLATE,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": strictly(
            ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
            groupName={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=STRINGS,
            template=POD_TEMPLATE,
        ),
    },
)


def manifests() -> list[Manifest]:
    return [document for file in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(file.read_text())]


def templates() -> list[Manifest]:
    found = []
    for manifest in manifests():
        spec = manifest.get("spec", {})
        groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]] if manifest["kind"] == "RayCluster" else [spec]
        found += [group["template"] for group in groups if "template" in group]
    return found


def pods() -> list[Manifest]:
    return [template["spec"] for template in templates()]


def containers() -> list[Manifest]:
    return [container for pod in pods() for container in [*pod.get("initContainers", []), *pod["containers"]]]


def claims() -> list[Manifest]:
    return [manifest for manifest in manifests() if manifest["kind"] == "PersistentVolumeClaim"]


def names(kind: str) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in manifests() if manifest["kind"] == kind}


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: f"{m['kind']}/{m['metadata']['name']}")
def test_a_manifest_has_the_fields_of_its_kind_and_no_others(manifest: Manifest) -> None:
    if manifest["kind"] == "RayCluster":
        assert manifest["apiVersion"] == "ray.io/v1"
        jsonschema.validate(manifest["spec"], RAY_CLUSTER)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("template", templates(), ids=lambda t: t["spec"]["containers"][0]["name"])
def test_a_pod_has_the_fields_of_a_pod_and_no_others_and_its_user_is_not_root(template: Manifest) -> None:
    of_a_kind = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
    kubernetes_validate.validate(of_a_kind, KUBERNETES, strict=True)
    assert template["spec"]["securityContext"]["runAsNonRoot"]


def test_names_are_such_as_kubernetes_takes_and_amounts_are_quantities() -> None:
    # Its API server's rules, of which its schemas know nothing.
    named = [*(manifest["metadata"] for manifest in manifests()), *containers()]
    named += [volume for pod in pods() for volume in pod["volumes"]]
    assert [item["name"] for item in named if not re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", item["name"])] == []
    asked = [container["resources"] for container in containers() if "resources" in container]
    assert all({"requests", "limits"} == set(resources) for resources in asked)
    amounts = [amount for resources in asked for part in resources.values() for amount in part.values()]
    amounts += [claim["spec"]["resources"]["requests"]["storage"] for claim in claims()]
    assert [amount for amount in amounts if not re.fullmatch("[0-9]+(m|[KMGT]i)?", amount)] == []


def test_no_container_may_gain_rights_or_write_its_root_or_ask_kubernetes() -> None:
    confined = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert [container["name"] for container in containers() if container.get("securityContext") != confined] == []
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_ray_keeps_its_objects_in_memory_that_the_pod_has() -> None:
    (cluster,) = (manifest["spec"] for manifest in manifests() if manifest["kind"] == "RayCluster")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        size = re.fullmatch("([0-9]+)Mi", volumes["shm"]["emptyDir"]["sizeLimit"])
        assert size is not None
        assert int(group["rayStartParams"]["object-store-memory"]) < int(size[1]) * 2**20


def test_a_pod_that_starts_leaves_the_files_of_the_others_as_they_are() -> None:
    # By default Kubernetes changes the group and the mode of every file of a volume for every pod that mounts it.
    policies = [pod["securityContext"].get("fsGroupChangePolicy") for pod in pods()]
    assert policies == ["OnRootMismatch"] * len(policies)


def test_the_api_is_sent_requests_only_while_it_is_ready() -> None:
    (api,) = [container for container in containers() if container.get("args") == ["api"] and "ports" in container]
    assert api["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert api["livenessProbe"]["httpGet"]["path"] == "/healthz", "a store that is away is not mended by a restart"


def test_every_pod_has_a_policy_of_who_may_connect_to_it() -> None:
    selected = [m["spec"]["podSelector"]["matchLabels"] for m in manifests() if m["kind"] == "NetworkPolicy"]
    deployments = [m["spec"]["selector"]["matchLabels"] for m in manifests() if m["kind"] == "Deployment"]
    # KubeRay gives its pods this label.
    clusters = [{"ray.io/cluster": m["metadata"]["name"]} for m in manifests() if m["kind"] == "RayCluster"]
    assert sorted(selected, key=str) == sorted(deployments + clusters, key=str)


def test_only_those_have_a_secret_who_need_it() -> None:
    having: dict[str, set[str]] = {}
    for container in containers():
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                having.setdefault(variable["valueFrom"]["secretKeyRef"]["key"], set()).add(container["name"])
    assert having == {
        "store-url": {"migrate", "api", "dispatcher"},
        "key-secret": {"migrate", "api"},
        "ray-token": {"api", "dispatcher", "ray-head", "ray-worker"},
    }


def test_a_claim_may_be_mounted_on_several_nodes() -> None:
    assert [claim["spec"]["accessModes"] for claim in claims()] == [["ReadWriteMany"]]


def test_a_mistyped_field_is_found() -> None:
    (service,) = (manifest for manifest in manifests() if manifest["kind"] == "Service")
    service["spec"]["selektor"] = service["spec"].pop("selector")
    with pytest.raises(kubernetes_validate.ValidationError, match="selektor"):
        kubernetes_validate.validate(service, KUBERNETES, strict=True)


def test_every_mount_has_its_volume_and_every_volume_its_claim() -> None:
    for pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = [m["name"] for c in [*pod.get("initContainers", []), *pod["containers"]] for m in c["volumeMounts"]]
        assert set(mounts) == set(volumes)
        claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        assert claims <= names("PersistentVolumeClaim")


def test_every_secret_is_one_that_the_manifest_tells_how_to_make() -> None:
    told = re.findall(r"--from-literal=([A-Za-z_-]+)=", (FOLDER / "symadj.yaml").read_text())
    variables = [variable for container in containers() for variable in container.get("env", [])]
    keys = {v["valueFrom"]["secretKeyRef"]["key"] for v in variables if "valueFrom" in v}
    assert keys == {key for key in told if not key.startswith("AWS_")}


def test_every_variable_is_a_setting() -> None:
    settings = {f"SYMADJ_{name.upper()}" for name in Settings.model_fields}
    (config,) = (manifest["data"] for manifest in manifests() if manifest["kind"] == "ConfigMap")
    variables = {variable["name"] for container in containers() for variable in container.get("env", [])}
    assert set(config) | {name for name in variables if name.startswith("SYMADJ_")} <= settings
    sources = [source for container in containers() for source in container.get("envFrom", [])]
    assert {source["configMapRef"]["name"] for source in sources if "configMapRef" in source} == names("ConfigMap")


def test_services_and_deployments_select_pods_that_are_there() -> None:
    deployments = [manifest["spec"] for manifest in manifests() if manifest["kind"] == "Deployment"]
    labels = [spec["template"]["metadata"]["labels"] for spec in deployments]
    assert [spec["selector"]["matchLabels"] for spec in deployments] == labels
    for manifest in manifests():
        if manifest["kind"] == "Service":
            assert manifest["spec"]["selector"] in labels


def test_all_containers_are_of_one_image() -> None:
    assert len({container["image"] for container in containers()}) == 1


def test_whoever_asks_a_bucket_is_given_its_keys_where_there_are_any() -> None:
    ask = [container for container in containers() if container["name"] != "migrate"]
    for container in ask:
        assert {"secretRef": {"name": "symadj-bucket", "optional": True}} in container["envFrom"], container["name"]
