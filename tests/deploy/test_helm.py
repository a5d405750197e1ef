"""The chart by Helm's own code: linted, rendered, each object held against Kubernetes' schemas."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from freehold.cli.settings import Settings, read_settings

helm = pytest.importorskip("helm_python.chart")
kubernetes = pytest.importorskip("kubernetes_validate")

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "freehold"
VERSIONS = ("1.28", "1.37")
CRDS = {"LeaderWorkerSet", "ServiceMonitor"}

SMALL = {"image": {"name": "registry/freehold@sha256:00"}, "home": {"claim": "home"}}
SHARED = {
    "image": {"name": "registry/freehold@sha256:00", "pullSecrets": ["registry"]},
    "replicas": 3,
    "database": {
        "url": "postgresql://freehold@db.example:5433/freehold",
        "passwordSecret": "database",
        "port": 5433,
        "to": [{"ipBlock": {"cidr": "10.0.0.5/32"}}],
    },
    "tls": {"secret": "tls", "clientCa": "ca.crt"},
    "telemetry": {
        "traces": "http://10.0.0.9:4318",
        "to": [{"ipBlock": {"cidr": "10.0.0.9/32"}}],
    },
    "clients": [{"podSelector": {"matchLabels": {"app": "office"}}}],
    "serviceMonitor": {"enabled": True, "keySecret": "prometheus"},
    "nodeSelector": {"pool": "big"},
    "tolerations": [{"key": "big", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "podAnnotations": {"a": "b"},
}
VLLM = SHARED | {
    "vllm": {
        "enabled": True,
        "image": "registry/vllm@sha256:00",
        "model": "models/qwen3-235b",
        "name": "qwen3-235b",
        "arguments": ["--max-model-len=32768"],
    }
}
ALL = {"small": SMALL, "shared": SHARED, "vllm": VLLM}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Every object of a release called ``qwen``."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="qwen", namespace="ai")
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("which", ALL)
def test_helm_lints_it(which: str) -> None:
    report = helm.lint(CHART, ALL[which], strict=True, namespace="ai")
    assert [one for one in report["messages"] if one["severity"] > 1] == []
    assert not report["errors"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("which", ALL)
def test_every_object_is_what_kubernetes_takes(which: str, version: str) -> None:
    objects = rendered(ALL[which])
    for one in objects:
        if one["kind"] not in CRDS:
            kubernetes.validate(one, version, strict=True)
    # Of the two that other projects define, the pods inside.
    for one in objects:
        if one["kind"] == "LeaderWorkerSet":
            group = one["spec"]["leaderWorkerTemplate"]
            for template in (group["leaderTemplate"], group["workerTemplate"]):
                pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
                kubernetes.validate(pod, version, strict=True)
    kinds = {one["kind"] for one in objects}
    assert ("LeaderWorkerSet" in kinds) == (which == "vllm")
    assert len({(one["kind"], one["metadata"]["name"]) for one in objects}) == len(objects)


@pytest.mark.parametrize("which", ALL)
def test_freehold_takes_its_settings(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered(ALL[which] | {"config": "threads = 4\n[gate]\npinned = true\n"})
    text = named(objects, "ConfigMap", "qwen")["data"]["freehold.toml"]
    told = tomllib.loads(text)
    known = {key.name for key in fields(Settings)}
    remote = {"engine", "upstream", "upstream_model"}
    if not remote <= known:  # the engine of other servers is not in this checkout
        text = "".join(line for line in text.splitlines(True) if line.split(" ")[0] not in remote)
    (tmp_path / "freehold.toml").write_text(text)
    monkeypatch.setenv("FREEHOLD_CONFIG", str(tmp_path / "freehold.toml"))
    settings = read_settings(tmp_path)
    assert (settings.host, settings.threads, settings.gate.pinned) == ("0.0.0.0", 4, True)
    if which == "small":
        assert (settings.keys, settings.tls_cert) == ("keys.sqlite", "")
    else:
        assert settings.keys == settings.ledger == SHARED["database"]["url"]  # type: ignore[index]
        assert settings.telemetry.address() == ("10.0.0.9", 4318)
        assert (settings.tls_client_ca, settings.tls_reload) == ("/run/tls/ca.crt", True)
    assert told.get("upstream", "") == ("http://qwen-vllm:8000" if which == "vllm" else "")


def _allowed(policy: dict[str, Any], way: str) -> list[tuple[Any, ...]]:
    peer = {"ingress": "from", "egress": "to"}[way]
    return [
        (list(rule[peer][0]), [port["port"] for port in rule.get("ports", [])])
        for rule in policy["spec"].get(way) or []
    ]


def test_nothing_comes_in_or_goes_out_unless_it_is_named() -> None:
    objects = rendered(SMALL)
    deny = named(objects, "NetworkPolicy", "qwen-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not deny.keys() & {"ingress", "egress"}
    counter = named(objects, "NetworkPolicy", "qwen-counter")
    assert _allowed(counter, "ingress") == _allowed(counter, "egress") == []
    objects = rendered(SHARED)
    counter = named(objects, "NetworkPolicy", "qwen-counter")
    assert _allowed(counter, "ingress") == [(["podSelector"], [8080])]
    assert _allowed(counter, "egress") == [
        (["ipBlock"], [5433]), (["ipBlock"], [4318]), (["namespaceSelector"], [53, 53])
    ]  # fmt: skip
    objects = rendered(VLLM)
    vllm = named(objects, "NetworkPolicy", "qwen-vllm")
    assert _allowed(vllm, "egress") == [(["podSelector"], []), (["namespaceSelector"], [53, 53])]
    assert _allowed(vllm, "ingress") == [(["podSelector"], [8000]), (["podSelector"], [])]
    # Every pod is picked by the policy that denies.
    for one in objects:
        template = one.get("spec", {}).get("template")
        if one["kind"] == "Deployment":
            labels = template["metadata"]["labels"]
            assert deny["podSelector"]["matchLabels"].items() <= labels.items()
        if one["kind"] == "LeaderWorkerSet":
            group = one["spec"]["leaderWorkerTemplate"]
            for part in ("leaderTemplate", "workerTemplate"):
                labels = group[part]["metadata"]["labels"]
                assert deny["podSelector"]["matchLabels"].items() <= labels.items()


def test_pods_have_no_powers() -> None:
    for which in ALL.values():
        for one in rendered(which):
            pods = []
            if one["kind"] == "Deployment":
                pods = [one["spec"]["template"]["spec"]]
            elif one["kind"] == "LeaderWorkerSet":
                group = one["spec"]["leaderWorkerTemplate"]
                pods = [group[part]["spec"] for part in ("leaderTemplate", "workerTemplate")]
            for pod in pods:
                assert pod["securityContext"]["runAsNonRoot"] is True
                assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
                assert pod["automountServiceAccountToken"] is False
                for container in pod["containers"] + pod.get("initContainers", []):
                    context = container["securityContext"]
                    assert context["readOnlyRootFilesystem"] is True
                    assert context["allowPrivilegeEscalation"] is False
                    assert context["capabilities"] == {"drop": ["ALL"]}


REFUSED = {
    "image.name is empty": {"home": {"claim": "home"}},
    "keys and ledger would end": {"image": {"name": "x"}},
    "more than one replica needs": SMALL | {"replicas": 2},
    "database.to is empty": SHARED | {"database": {"url": "postgresql://a@b/c"}},
    "telemetry.to is empty": SMALL | {"telemetry": {"traces": "http://a:1"}},
    "tls.clientCa needs": SMALL | {"tls": {"clientCa": "ca.crt"}},
    "/metrics asks for a key": SMALL | {"serviceMonitor": {"enabled": True}},
    "vllm needs image": SMALL | {"vllm": {"enabled": True}},
    "'replica' not allowed": SMALL | {"replica": 2},
    "/database/url": SMALL | {"database": {"url": "postgresql://a:password@b/c"}},
    "/telemetry/traces": SMALL | {"telemetry": {"traces": "https://a:1"}},
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_would_not_work_is_refused(told: str) -> None:
    with pytest.raises(Exception, match="(?s)" + told.replace(".", r"\.")):
        rendered(REFUSED[told])
