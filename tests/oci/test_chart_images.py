"""What rendered charts and their metadata name: images, what looks like them, and nothing else."""

from __future__ import annotations

import orjson
import pytest

from iarproxy.errors import Malformed
from iarproxy.oci.chart_images import annotated_images, rendered_images

DIGEST = "sha256:" + "a" * 64

# In the shape of what charts of operators render: images in arguments, variables and settings inside a text.
RENDERED = f"""---
# Source: app/templates/settings.yaml
kind: ConfigMap
data:
  default-setting.yaml: |-
    priority-class: high
    share-manager-image: "longhornio/share-manager:v1.6.0"
    url: http://metrics.example.com/path:80
    listen: 0.0.0.0:8080
    helper=quay.io/org/helper:latest, at 10:30
---
# Source: app/templates/run.yaml
kind: Deployment
metadata: {{name: app}}
spec:
  template:
    spec:
      initContainers:
        - {{name: wait, image: "docker.io/library/busybox:1.36"}}
      containers:
        - name: app
          image: ghcr.io/org/app:2.1@{DIGEST}
          imagePullPolicy: Always
          args: ["--engine-image", "longhornio/longhorn-engine:v1.6.0", "--reloader-image=nginx:1.25", "--port=80"]
          env:
            - {{name: OPERATOR_IMAGE_NAME, value: "ghcr.io/org/operator:1.22"}}
            - {{name: LEVEL, value: "info"}}
            - {{name: PEER, value: "redis/master:6379"}}
            - {{name: RELATED_IMAGE_PLAIN, value: "quay.io/org/plain"}}
---
# Source: app/templates/cluster.yaml
kind: Cluster
spec:
  imageName: ghcr.io/org/postgres:16
  sidecar: {{registry: quay.io, repository: org/sidecar, tag: "3"}}
  source: {{repository: https://git.example.com/x, tag: v1}}
  image: ":oops"
"""


def test_images_and_what_looks_like_them() -> None:
    """Containers name images; arguments, variables, settings and fields of custom resources mention them."""
    found = rendered_images(RENDERED.encode())
    named = {f"{each.named.pulled}{f'@{each.named.digest}' if each.named.digest else ''}" for each in found.images}
    assert {"docker.io/library/busybox:1.36", f"ghcr.io/org/app:2.1@{DIGEST}"} == named
    assert {
        "longhornio/share-manager:v1.6.0",
        "quay.io/org/helper:latest",
        "longhornio/longhorn-engine:v1.6.0",
        "nginx:1.25",
        "ghcr.io/org/operator:1.22",
        "quay.io/org/plain",
        "ghcr.io/org/postgres:16",
        "quay.io/org/sidecar:3",
        ":oops",
    } == {each.text for each in found.mentioned}
    assert () == found.unread


def test_where_it_is_mentioned_is_said() -> None:
    """File and key, so that a person finds it."""
    found = {each.text: str(each) for each in rendered_images(RENDERED.encode()).mentioned}
    expected = "ghcr.io/org/operator:1.22 (app/templates/run.yaml, OPERATOR_IMAGE_NAME)"
    assert expected == found["ghcr.io/org/operator:1.22"]


def test_a_document_that_cannot_be_read_hides_nothing_in_others() -> None:
    """A key that is there twice, as some charts render it: it is told with its file and line."""
    broken = b"# Source: app/templates/twice.yaml\na: 1\na: 2\n---\n" + RENDERED.encode()
    found = rendered_images(broken)
    assert 2 == len(found.images)
    (told,) = found.unread
    assert told.startswith("app/templates/twice.yaml, line 3")


def test_a_separator_with_a_remark_or_inside_a_text() -> None:
    """`---` ends a document at the beginning of a line only, whatever follows behind a `#`."""
    text = b"--- # one\nimage: a/b:v1\n--- \ndata: |\n  ---\n  image: c/d:v1\n"
    assert ["a/b:v1", "c/d:v1"] == [each.text for each in rendered_images(text).mentioned]


def test_the_authors_own_list() -> None:
    """Artifact Hub's annotation and Bitnami's, each image once; a list that is no YAML says nothing."""
    annotations = {
        "artifacthub.io/images": "- name: app\n  image: ghcr.io/org/app:1\n- name: other\n  image: quay.io/o/x:2\n",
        "images": "- image: ghcr.io/org/app:1\n  name: app\n- 7\n- image: [no]\n",
        "helm.sh/images": "{",
    }
    config = orjson.dumps({"name": "app", "annotations": annotations})
    assert ["ghcr.io/org/app:1", "quay.io/o/x:2", "7"] == [each.text for each in annotated_images(config)]
    assert () == annotated_images(b'{"annotations": null}')


@pytest.mark.parametrize("config", [b"", b"[]", b"<html>"])
def test_metadata_that_is_none(config: bytes) -> None:
    """It is refused, not taken for a chart without annotations."""
    with pytest.raises(Malformed):
        annotated_images(config)


def test_a_long_text_ends_soon() -> None:
    """A text made against the pattern is looked at in its time, and only its beginning."""
    text = "data: '" + "a/" * 200_000 + "'\nmore: '" + "a.b-" * 100_000 + ":'\n"
    assert () == rendered_images(text.encode()).mentioned
