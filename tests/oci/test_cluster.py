"""The images of a cluster: manifests of every shape, and what kubectl tells of running pods."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iarproxy.errors import Malformed
from iarproxy.oci import Descriptor, Digest, TagReference, parse_reference
from iarproxy.oci.cluster import Cluster, read_cluster
from iarproxy.oci.cluster_lock import Pinned, lock_of, references_of

A, B, C = (f"sha256:{each * 64}" for each in "abc")
INDEX = "application/vnd.oci.image.index.v1+json"

TREE = f"""apiVersion: apps/v1
kind: Deployment
metadata:
  namespace: shop
  name: web
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: '{{"image": "old:1"}}'
spec:
  template:
    spec:
      initContainers:
      - name: migrate
        image: ghcr.io/shop/migrate:7
      containers:
      - name: web
        image: nginx:1.27@{A}
        env:
        - name: RELATED_IMAGE_HELPER
          value: quay.io/shop/helper:2
        - name: MODE
          value: image
        args: ["--sidecar=quay.io/shop/sidecar@{B}"]
      volumes:
      - name: model
        image:
          reference: ghcr.io/shop/model:v3
          pullPolicy: IfNotPresent
      - name: tmp
        emptyDir: {{}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {{name: report}}
spec:
  jobTemplate:
    spec:
      template:
        spec:
          containers: [{{name: report, image: "python:3.12"}}]
---
apiVersion: v1
kind: List
items:
- apiVersion: argoproj.io/v1alpha1
  kind: Rollout
  metadata: {{name: canary}}
  spec: {{template: {{spec: {{containers: [{{name: app, image: localhost:5000/app}}]}}}}}}
- kind: PodList
  items:
  - kind: Pod
    metadata: {{name: bare, namespace: kube-system}}
    spec:
      ephemeralContainers: [{{name: debug, image: busybox@{C}}}]
- apiVersion: monitoring.coreos.com/v1
  kind: Prometheus
  metadata: {{name: main}}
  spec: {{image: quay.io/prometheus/prometheus:v3.1.0}}
---
kind: ConfigMap
metadata: {{name: values}}
data:
  image: ""
  note: no picture
  values.yaml: "image: registry.example.com/x@{A}"
---
"""


def named(cluster: Cluster) -> list[str]:
    return [
        str(each.named.pulled if each.named.tag or not each.named.digest else each.named.digest)
        for each in cluster.images
    ]


def test_every_container_is_found() -> None:
    """Workloads, cron jobs, lists in lists, unknown kinds, all three kinds of containers, and image volumes."""
    found = read_cluster(TREE.encode(), "tree.yaml")
    assert [
        "ghcr.io/shop/migrate:7",
        "docker.io/library/nginx:1.27",
        "ghcr.io/shop/model:v3",
        "docker.io/library/python:3.12",
        "localhost:5000/app:latest",
        C,
    ] == named(found)
    assert [
        "tree.yaml, line 13: Deployment shop/web, container migrate",
        "tree.yaml, line 16: Deployment shop/web, container web",
    ] == [each.place for each in found.images[:2]]
    assert "Pod kube-system/bare, container debug" == found.images[-1].where


def test_what_looks_like_an_image_is_listed() -> None:
    """Variables, arguments, other kinds' fields and texts with a digest are not read, and are told."""
    found = read_cluster(TREE.encode(), "tree.yaml")
    assert [
        ("quay.io/shop/helper:2", 19),
        (f"--sidecar=quay.io/shop/sidecar@{B}", 22),
        ("quay.io/prometheus/prometheus:v3.1.0", 57),
        (f"image: registry.example.com/x@{A}", 64),
    ] == [(each.text, each.line) for each in found.skipped]
    assert "tree.yaml: Prometheus main, image" in found.skipped[2].reason


def test_a_name_that_is_none_is_listed() -> None:
    """Templates that nobody rendered are told, not guessed."""
    text = 'spec:\n  containers:\n  - name: a\n    image: "{{ .Values.image }}"\n'
    found = read_cluster(text.encode(), "f")
    assert ([], 1) == (list(found.images), len(found.skipped))
    assert (4, True) == (found.skipped[0].line, "a document without a kind" in found.skipped[0].reason)


def pods(*told: tuple[str, str]) -> bytes:
    """What `kubectl get pods -o json` prints for one container per (image, imageID)."""
    items: list[Any] = [
        {
            "kind": "Pod",
            "metadata": {"name": f"p{number}", "namespace": "default"},
            "spec": {"containers": [{"name": "app", "image": image}]},
            "status": {
                "containerStatuses": [
                    {"name": "other", "imageID": f"docker.io/library/other@{C}"},
                    {"name": "app", "image": image, "imageID": running, "restartCount": 3},
                ]
            },
        }
        for number, (image, running) in enumerate(told)
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()


def tag(text: str) -> TagReference:
    found = parse_reference(text)
    assert isinstance(found, TagReference)
    return found


def pinned(digest: str, *children: str) -> Pinned:
    return Pinned(Descriptor(INDEX, Digest.parse(digest), 9), frozenset(map(Digest.parse, children)))


def test_what_runs_is_observed() -> None:
    """containerd's, CRI-O's and dockershim's `imageID` name a manifest; a runtime's own number does not."""
    found = read_cluster(
        pods(
            ("nginx:1", f"docker.io/library/nginx@{A}"),
            ("nginx:2", f"docker-pullable://nginx@{B}"),
            ("nginx:3", C),
            ("nginx:4", f"docker://{C}"),
            ("nginx:5", ""),
        ),
        "pods.json",
    )
    assert [A, B, "None", "None", "None"] == [str(each.observed) for each in found.images]
    assert ["", "", C, f"docker://{C}", ""] == [each.running for each in found.images]
    assert () == found.skipped


def test_the_lock_of_what_runs() -> None:
    """What was observed decides, else what is written, else our pin; what nobody knows is unresolved."""
    found = read_cluster(
        pods(
            ("nginx:1", f"docker.io/library/nginx@{A}"),
            ("nginx:1", f"docker.io/library/nginx@{A}"),
            ("nginx:2", C),
            (f"nginx:3@{B}", ""),
            ("nginx:4", C),
            ("nginx:5", f"docker.io/library/nginx@{A}"),
            ("nginx:5", f"docker.io/library/nginx@{B}"),
            (f"nginx@{C}", f"docker.io/library/nginx@{C}"),
        ),
        "pods.json",
    )
    assert [f"docker.io/library/nginx:{each}" for each in "12345"] == list(map(str, references_of(found.images)))
    judged = lock_of(found.images, {tag("nginx:2"): pinned(C)})
    assert [
        (f"docker.io/library/nginx:1@{A}", None),
        (f"docker.io/library/nginx:2@{C}", 9),
        (f"docker.io/library/nginx:3@{B}", None),
    ] == [(str(each), each.size) for each in judged.lock.entries]
    assert [
        ("nginx:4", f"its imageID '{C}' names no manifest, and it has no pin here"),
        ("nginx:5", f"several contents: {A}, {B}"),
    ] == [(str(each.reference).rpartition("/")[2], each.reason) for each in judged.unresolved]
    assert [f"docker.io/library/nginx@{C}"] == [each.text for each in judged.lock.skipped]
    assert () == judged.disagreements


def test_cluster_and_pins_disagree() -> None:
    """Other content than the pin is told with its place; the platform of a pinned index is the pin."""
    found = read_cluster(
        pods(("nginx:1", f"docker.io/library/nginx@{A}"), ("nginx:2", f"docker.io/library/nginx@{A}")), "pods.json"
    )
    judged = lock_of(found.images, {tag("nginx:1"): pinned(B), tag("nginx:2"): pinned(C, A)})
    assert [f"docker.io/library/nginx:1@{A}", f"docker.io/library/nginx:2@{C}"] == list(map(str, judged.lock.entries))
    assert [("docker.io/library/nginx:1", B, A, "pods.json: Pod default/p0, container app")] == [
        (str(each.reference), str(each.pinned), str(each.observed), each.place) for each in judged.disagreements
    ]


def test_wrong_files_name_themselves() -> None:
    """File and line are in the error."""
    for data, said in [(b"a: b\n c: d", "tree, line 2: not YAML"), (b"a\0", "tree, line 1: a NUL")]:
        with pytest.raises(Malformed, match=said):
            read_cluster(data, "tree")


trees = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5) | st.sampled_from(["nginx:1", f"a:1@{A}", "List", "Pod"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "kind",
                    "items",
                    "spec",
                    "status",
                    "metadata",
                    "containers",
                    "initContainers",
                    "volumes",
                    "image",
                    "reference",
                    "containerStatuses",
                    "imageID",
                    "name",
                    "value",
                    "x_IMAGE",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=40,
)


@given(trees)
@example(tree="\U00010000")  # in JSON a pair of escapes, which YAML does not know
def test_any_tree_is_read(tree: Any) -> None:
    """Whatever is where something else is expected, the walk ends and nothing is raised."""
    found = read_cluster(json.dumps(tree).encode(), "f")
    lock_of(found.images, {})
