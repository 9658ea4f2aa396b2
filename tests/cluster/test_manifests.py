"""The Kubernetes manifests, without a cluster.

What is checked: kinds and API versions; the fields of a RayCluster and of the pods that we use, by a schema that knows
those and no others, so that a mistyped field is found; that what refers to a volume, a claim, a settings object, a
secret's key or a label finds it; and that every variable is a setting. What only an API server and the KubeRay operator
know (defaults, admission, quotas) is not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.settings import Settings

FOLDER = Path(__file__).parents[2] / "docker" / "k8s"
Manifest = dict[str, Any]


def strictly(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
COUNT = {"type": "integer", "minimum": 0}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITY = {"type": "string", "pattern": "^[0-9]+(m|[KMGT]i)?$"}
AMOUNTS = {"type": "object", "additionalProperties": QUANTITY}
RESOURCES = strictly(["requests", "limits"], requests=AMOUNTS, limits=AMOUNTS)
WORDS = {"type": "array", "items": {"type": "string"}}
REFERENCE = strictly(["name", "key"], name=NAME, key={"type": "string"})
VARIABLE = strictly(
    ["name"],
    name={"type": "string"},
    value={"type": "string"},
    valueFrom=strictly(["secretKeyRef"], secretKeyRef=REFERENCE),
)
PROBE = strictly(
    [],
    exec=strictly(["command"], command=WORDS),
    httpGet=strictly(["path", "port"], path={"type": "string"}, port={"type": ["string", "integer"]}),
    initialDelaySeconds=COUNT,
    periodSeconds=COUNT,
    timeoutSeconds=COUNT,
    failureThreshold=COUNT,
)
CONTAINER = strictly(
    ["name", "image"],
    name=NAME,
    image={"type": "string"},
    args=WORDS,
    env={"type": "array", "items": VARIABLE},
    envFrom={"type": "array", "items": strictly(["configMapRef"], configMapRef=strictly(["name"], name=NAME))},
    ports={"type": "array", "items": strictly(["containerPort"], name=NAME, containerPort=COUNT)},
    livenessProbe=PROBE,
    readinessProbe=PROBE,
    resources=RESOURCES,
    volumeMounts={"type": "array", "items": strictly(["name", "mountPath"], name=NAME, mountPath={"type": "string"})},
)
VOLUME = strictly(
    ["name"],
    name=NAME,
    persistentVolumeClaim=strictly(["claimName"], claimName=NAME),
    emptyDir=strictly([], medium={"enum": ["Memory"]}, sizeLimit=QUANTITY),
)
POD = strictly(
    ["containers", "volumes", "securityContext"],
    securityContext=strictly(
        ["runAsNonRoot"], runAsUser=COUNT, runAsGroup=COUNT, fsGroup=COUNT, runAsNonRoot={"const": True}
    ),
    terminationGracePeriodSeconds=COUNT,
    initContainers={"type": "array", "items": CONTAINER},
    containers={"type": "array", "items": CONTAINER, "minItems": 1},
    volumes={"type": "array", "items": VOLUME},
)
TEMPLATE = strictly(["spec"], metadata=strictly([], labels=STRINGS), spec=POD)
SPECS = {
    # As in KubeRay's API ray.io/v1, of which these are the fields that we use and those that it requires.
    ("ray.io/v1", "RayCluster"): strictly(
        ["headGroupSpec"],
        rayVersion={"type": "string"},
        headGroupSpec=strictly(
            ["rayStartParams", "template"],
            serviceType={"enum": ["ClusterIP"]},
            rayStartParams=STRINGS,
            template=TEMPLATE,
        ),
        workerGroupSpecs={
            "type": "array",
            "items": strictly(
                ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                groupName=NAME,
                replicas=COUNT,
                minReplicas=COUNT,
                maxReplicas=COUNT,
                rayStartParams=STRINGS,
                template=TEMPLATE,
            ),
        },
    ),
    ("apps/v1", "Deployment"): strictly(
        ["selector", "template"],
        replicas=COUNT,
        selector=strictly(["matchLabels"], matchLabels=STRINGS),
        template=TEMPLATE,
    ),
    ("v1", "Service"): strictly(
        ["selector", "ports"],
        selector=STRINGS,
        ports={"type": "array", "items": strictly(["port"], name=NAME, port=COUNT, targetPort={"type": "string"})},
    ),
    ("v1", "PersistentVolumeClaim"): strictly(
        ["accessModes", "resources"],
        accessModes={"type": "array", "items": {"const": "ReadWriteMany"}},
        resources=strictly(["requests"], requests=AMOUNTS),
    ),
}


def manifests() -> list[Manifest]:
    return [document for file in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(file.read_text())]


def pods() -> list[Manifest]:
    found = []
    for manifest in manifests():
        spec = manifest.get("spec", {})
        groups = [spec.get("headGroupSpec"), *spec.get("workerGroupSpecs", [])] if "headGroupSpec" in spec else [spec]
        found += [group["template"]["spec"] for group in groups if "template" in group]
    return found


def containers() -> list[Manifest]:
    return [container for pod in pods() for container in [*pod.get("initContainers", []), *pod["containers"]]]


def names(kind: str) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in manifests() if manifest["kind"] == kind}


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: f"{m['kind']}/{m['metadata']['name']}")
def test_a_manifest_has_the_fields_of_its_kind_and_no_others(manifest: Manifest) -> None:
    if manifest["kind"] == "ConfigMap":
        jsonschema.validate(manifest["data"], STRINGS)
    else:
        jsonschema.validate(manifest["spec"], SPECS[manifest["apiVersion"], manifest["kind"]])


def test_every_mount_has_its_volume_and_every_volume_its_claim() -> None:
    for pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = [m["name"] for c in [*pod.get("initContainers", []), *pod["containers"]] for m in c["volumeMounts"]]
        assert set(mounts) == set(volumes)
        claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        assert claims <= names("PersistentVolumeClaim")


def test_every_secret_is_one_that_the_manifest_tells_how_to_make() -> None:
    told = re.findall(r"--from-literal=([a-z-]+)=", (FOLDER / "symadj.yaml").read_text())
    variables = [variable for container in containers() for variable in container.get("env", [])]
    keys = {v["valueFrom"]["secretKeyRef"]["key"] for v in variables if "valueFrom" in v}
    assert keys == set(told)


def test_every_variable_is_a_setting() -> None:
    settings = {f"SYMADJ_{name.upper()}" for name in Settings.model_fields}
    (config,) = (manifest["data"] for manifest in manifests() if manifest["kind"] == "ConfigMap")
    variables = {variable["name"] for container in containers() for variable in container.get("env", [])}
    assert set(config) | {name for name in variables if name.startswith("SYMADJ_")} <= settings
    used = {source["configMapRef"]["name"] for c in containers() for source in c.get("envFrom", [])}
    assert used == names("ConfigMap")


def test_services_and_deployments_select_pods_that_are_there() -> None:
    deployments = [manifest["spec"] for manifest in manifests() if manifest["kind"] == "Deployment"]
    labels = [spec["template"]["metadata"]["labels"] for spec in deployments]
    assert [spec["selector"]["matchLabels"] for spec in deployments] == labels
    for manifest in manifests():
        if manifest["kind"] == "Service":
            assert manifest["spec"]["selector"] in labels


def test_all_containers_are_of_one_image() -> None:
    assert len({container["image"] for container in containers()}) == 1
