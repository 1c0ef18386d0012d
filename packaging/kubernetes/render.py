#!/usr/bin/env python3
"""Renders the Helm chart into stentor.yaml and monitoring.yaml beside this file, and checks them.

    pip install helm-python-sdk kubernetes-validate
    packaging/kubernetes/render.py            write both files
    packaging/kubernetes/render.py --check    fail if they are not what the chart renders
    packaging/kubernetes/render.py --config   print the stentor.toml in it, too, for `stentor config --check`

All render the chart with its defaults, with every part of it, with another configuration and for pods
with IPv6 addresses, and hold each object against the schema of its kind, strictly, for the oldest and
the newest version of Kubernetes that kubernetes-validate and the chart know. The Prometheus Operator's
kinds have no schema there: only their fields that this file lists are allowed, and a PrometheusRule has
to be the alerts that promtool tests. No cluster is asked.
"""

import sys
from pathlib import Path

import yaml
import kubernetes_validate
from helm_python import Chart, lint
from kubernetes_validate.utils import all_versions

HERE = Path(__file__).resolve().parent
CHART = HERE.parent / "helm" / "stentor"
ALERTS = HERE.parent / "prometheus" / "alerts.yml"
MONITORING = {
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
}
HEADS = {
    "stentor.yaml": """\
# Rendered from packaging/helm/stentor by render.py; do not edit. Set `image` and [auth] hook to yours.
#
#   kubectl create secret generic stentor --from-literal=STENTOR__BROKER__URL=amqp://…
#   kubectl apply -f stentor.yaml
""",
    "monitoring.yaml": """\
# For the Prometheus Operator: how to read metrics, and when to raise an alarm. Rendered from
# packaging/helm/stentor by render.py; do not edit. The label `release` is the one by which the
# operator's own chart picks monitors and rules, if that release is called `prometheus`.
#
#   kubectl apply -f monitoring.yaml
""",
}
# The fields that the Prometheus Operator knows and the chart uses.
ENDPOINT = {"port", "path", "interval"}
RULE = {"alert", "expr", "for", "labels", "annotations"}
ALL = MONITORING | {
    "autoscaling": {"enabled": True},
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "push", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
}

# It takes the place of the whole default.
CONFIG = '[auth]\nhook = "http://app/auth"\n'

# What the chart is rendered with, and the address of the admin port that probes have to find then.
ANY_IPV4, ANY_IPV6 = "0.0.0.0", "[::]"
SETS = [
    ("defaults", {}, ANY_IPV4),
    ("every part", ALL, ANY_IPV4),
    ("another configuration", {"config": CONFIG}, ANY_IPV4),
    ("IPv6", {"adminAddress": f"{ANY_IPV6}:15680"}, ANY_IPV6),
]


def render(chart, values):
    """The objects of each template, by the template's name."""
    texts = chart.render(values, name="stentor", namespace="default")
    return {name: text.strip() for name, text in sorted(texts.items()) if text.strip() and name.endswith(".yaml")}


def check(texts, versions):
    """Holds each object against its schema. Returns how many there were, and their kinds."""
    kinds = []
    for name, text in texts.items():
        for thing in yaml.safe_load_all(text):
            kinds.append(thing["kind"])
            if thing["apiVersion"] == "monitoring.coreos.com/v1":
                check_monitoring(name, thing)
                continue
            for version in versions:
                try:
                    kubernetes_validate.validate(thing, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    sys.exit(f"{name}, Kubernetes {version}: {list(error.path)}: {error.message}")
    return kinds


def check_monitoring(name, thing):
    """Holds a kind of the Prometheus Operator against the fields above."""
    spec = thing["spec"]
    if thing["kind"] == "ServiceMonitor":
        unknown = set(spec) - {"jobLabel", "selector", "endpoints"}
        unknown |= {field for endpoint in spec["endpoints"] for field in endpoint} - ENDPOINT
    else:
        if spec != yaml.safe_load(ALERTS.read_text()):
            sys.exit(f"{name} has other alerts than {ALERTS.name}")
        unknown = {field for group in spec["groups"] for field in group} - {"name", "rules"}
        unknown |= {field for group in spec["groups"] for rule in group["rules"] for field in rule} - RULE
    if unknown:
        sys.exit(f"{name}: {unknown}")


def selectors_match(texts):
    """Services, the budget, the policy and the Deployment select the pods that there are; and
    Prometheus finds the port, and names the job as the alerts do."""
    things = [thing for text in texts.values() for thing in yaml.safe_load_all(text)]
    pod = next(t for t in things if t["kind"] == "Deployment")["spec"]["template"]
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    for thing in things:
        spec = thing.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector") or {}
        if thing["kind"] == "ServiceMonitor":
            services = [t for t in things if t["kind"] == "Service"]
            wanted = selector["matchLabels"].items()
            hits = [s for s in services if wanted <= s["metadata"]["labels"].items()]
            names = [port["name"] for s in hits for port in s["spec"]["ports"]]
            if len(hits) != 1 or spec["endpoints"][0]["port"] not in names:
                sys.exit(f"ServiceMonitor finds {len(hits)} Services")
            job = hits[0]["metadata"]["labels"][spec["jobLabel"]]
            if f'job="{job}"' not in ALERTS.read_text():
                sys.exit(f"ServiceMonitor calls the job {job}, which no alert asks for")
            continue
        if thing["kind"] == "PrometheusRule":
            continue
        labels = selector.get("matchLabels", selector)
        if not labels.items() <= pod["metadata"]["labels"].items():
            sys.exit(f"{thing['kind']} selects other pods: {labels}")
        for port in spec.get("ports", []):
            if port["targetPort"] not in ports:
                sys.exit(f"{thing['kind']}: there is no port {port['targetPort']}")


def reachable(texts, address):
    """Whatever the configuration is, probes reach the admin port, at all addresses of the pod's kind: its
    default is the loopback interface."""
    things = [thing for text in texts.values() for thing in yaml.safe_load_all(text)]
    pod = next(t for t in things if t["kind"] == "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    port = next(port["containerPort"] for port in container["ports"] if port["name"] == "admin")
    wanted = {"name": "STENTOR__LISTEN__ADMIN", "value": f"{address}:{port}"}
    if wanted not in container.get("env", []):
        sys.exit(f"no probe reaches the container: its env lacks {wanted}")


def write(name, texts):
    """Writes a file of these objects; with --check, compares it."""
    plain = HEADS[name] + "".join(f"---\n{text}\n" for text in texts.values())
    plain = plain.replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl")
    file = HERE / name
    if "--check" not in sys.argv:
        file.write_text(plain)
    elif not file.exists() or file.read_text() != plain:
        sys.exit(f"{name} is not what the chart renders: run render.py")


def main():
    chart = Chart.load(CHART)
    known = sorted(all_versions(), key=lambda version: [int(part) for part in version.split(".")])
    versions = [known[0], known[-1]]
    for words, values, address in SETS:
        faults = [m for m in lint(CHART, values, strict=True)["messages"] if m["severity"] > 1]
        if faults:
            sys.exit(f"{words}: {faults}")
        texts = render(chart, values)
        kinds = check(texts, versions)
        selectors_match(texts)
        reachable(texts, address)
        print(f"{words}: {len(kinds)} objects fit Kubernetes {' and '.join(versions)}: {', '.join(kinds)}")
    texts = render(chart, {})
    write("stentor.yaml", texts)
    write("monitoring.yaml", {name: text for name, text in render(chart, MONITORING).items() if name not in texts})
    if "--config" in sys.argv:
        things = yaml.safe_load_all("\n---\n".join(texts.values()))
        print(next(t for t in things if t["kind"] == "ConfigMap")["data"]["stentor.toml"])


main()
