"""Locks as text: ours to the byte, and what other programs write."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from grammar import descriptors, digests, repositories, tags
from iarproxy.errors import Malformed
from iarproxy.oci import Digest, TagReference, parse_reference
from iarproxy.oci.lock import NO_TAG, WRITABLE, Lock, Locked, LockFormat, locked
from iarproxy.oci.lock_difference import differences
from iarproxy.oci.lock_reading import format_of, read_lock, write_lock

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
INDEX = "application/vnd.oci.image.index.v1+json"


def read(text: str, kind: LockFormat | None = None, prefix: str | None = None) -> tuple[list[str], list[str]]:
    """The entries and what is skipped, as text."""
    found = read_lock(text.encode(), "file", kind, prefix)
    return [str(each) for each in found.entries], [str(each) for each in found.skipped]


def entry(text: str) -> Locked:
    name, _, digest = text.partition("@")
    reference = parse_reference(name)
    assert isinstance(reference, TagReference)
    return Locked(reference, Digest.parse(digest))


# --- iar.lock --------------------------------------------------------------------------------------------------------


def test_our_text_to_the_byte() -> None:
    """The order of the pins does not matter, nothing is aligned, and what is not known is not written."""
    one = Locked(entry(f"ghcr.io/org/app:1.2@{A}").reference, Digest.parse(A), INDEX, 1853)
    two, three = entry(f"docker.io/library/alpine:3.20@{B}"), entry(f"docker.io/library/alpine:3.9@{B}")
    expected = (
        "# iar.lock 1\n"
        "# Tags and the content they stand for, written by `iarproxy lock export` and read by `iarproxy lock import`.\n"
        "# environment: prod\n"
        f"docker.io/library/alpine:3.20@{B}\n"
        f"docker.io/library/alpine:3.9@{B}\n"
        f"ghcr.io/org/app:1.2@{A} {INDEX} 1853\n"
    )
    assert expected.encode() == write_lock(locked([one, three, two]), LockFormat.IAR, "prod")
    assert expected.encode() == write_lock(locked([two, one, three]), LockFormat.IAR, "prod")


def test_what_people_may_do_to_our_text() -> None:
    """Comments, empty lines, another order, spaces and Windows' line ends are read."""
    text = f"# iar.lock 1\r\n\r\n  \n# mine\nghcr.io/a/b:2@{A} \t{INDEX}  12 # reviewed by ann\r\nghcr.io/a/b:1@{B}"
    assert ([f"ghcr.io/a/b:1@{B}", f"ghcr.io/a/b:2@{A}"], []) == read(text)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (f"alpine:3@{A}", f"file, line 2: 'alpine:3@{A}' is not written out; write docker.io/library/alpine:3@{A}"),
        (f"ghcr.io/a/b@{A}", "line 2: .* is not written out; write ghcr.io/a/b:latest@"),
        ("ghcr.io/a/b:1", "line 2: ghcr.io/a/b:1 has no digest"),
        (f"ghcr.io/a/b:1@{A} {INDEX}", "line 2: 2 fields"),
        (f"ghcr.io/a/b:1@{A} {INDEX} 1 x", "line 2: 4 fields"),
        (f"ghcr.io/a/b:1@{A} {INDEX} 012", "line 2: not a size"),
        (f"ghcr.io/a/b:1@{A} {INDEX} {10**16}", "line 2: not a size|line 2: not a size in bytes"),
        (f"ghcr.io/a/b:1@{A} nonsense 1", "line 2: not a media type"),
        (f"ghcr.io/a/b:1@{A[:-1]}", "line 2: not a digest"),
        (f"ghcr.io/a/b:1@{A.upper()}", "line 2: not a digest"),
        (f"ghcr.io/a/b:1@{A}#x", "line 2: not a digest"),
        (f"ghcr.io/a/b:1@{A}\n\nghcr.io/a/b:1@{A}", "line 4: ghcr.io/a/b:1 is there twice, first in line 2"),
        (f"ghcr.io/a/b:1@{A}\nghcr.io/a/b:1@{B}", "line 3: .* is locked to sha256:bbb.* and to sha256:aaa.* in line 2"),
        (f"<<<<<<< HEAD\nghcr.io/a/b:1@{A}", "line 2: a merge conflict"),
        ("x" * 3000, "line 2: 3000 characters"),
        ("\0", "line 2: a NUL"),
    ],
)
def test_our_text_is_read_strictly(body: str, said: str) -> None:
    """Every other line is an error that names file and line."""
    with pytest.raises(Malformed, match=said):
        read(f"# iar.lock 1\n{body}\n")


def test_the_first_line_decides() -> None:
    """A newer version is refused, not read as a list; and a list is no iar.lock."""
    with pytest.raises(Malformed, match=r"line 1: iar\.lock 2, which this iarproxy cannot read"):
        read(f"# iar.lock 2\nghcr.io/a/b:1@{A}\n")
    with pytest.raises(Malformed, match=r"line 1: no iar\.lock"):
        read(f"ghcr.io/a/b:1@{A}\n", LockFormat.IAR)


entries = st.builds(
    lambda repository, tag, digest, descriptor, full: Locked(
        TagReference(repository, tag), digest, *((descriptor.media_type, descriptor.size) if full else ())
    ),
    repositories,
    tags,
    digests,
    descriptors,
    st.booleans(),
)
locks = st.lists(entries, max_size=12, unique_by=lambda each: each.reference).map(locked)


@given(locks)
def test_what_is_written_is_read(lock: Lock) -> None:
    """Each format that is written gives back the same pins, and is recognised; ours with types and sizes too."""
    for kind in WRITABLE:
        written = write_lock(lock, kind, "prod")
        found = read_lock(written, "file")
        plain = locked(Locked(each.reference, each.digest) for each in lock.entries)
        assert (lock if kind is LockFormat.IAR else plain) == found
        assert () == found.skipped
        assert kind == format_of(written.decode())
        assert written == write_lock(found, kind, "prod")


def test_an_imageslock_for_any_reader() -> None:
    """What is written is what every YAML library reads: imgpkg's fields, and kbld's id for the tag."""
    lock = locked([entry(f"[::1]:5000/a:1@{A}"), entry(f"docker.io/library/nginx:1.20@{B}")])
    assert {
        "apiVersion": "imgpkg.carvel.dev/v1alpha1",
        "kind": "ImagesLock",
        "images": [
            {"image": f"[::1]:5000/a@{A}", "annotations": {"kbld.carvel.dev/id": "[::1]:5000/a:1"}},
            {
                "image": f"docker.io/library/nginx@{B}",
                "annotations": {"kbld.carvel.dev/id": "docker.io/library/nginx:1.20"},
            },
        ],
    } == yaml.safe_load(write_lock(lock, LockFormat.IMAGESLOCK, "prod"))
    empty = yaml.safe_load(write_lock(locked([]), LockFormat.IMAGESLOCK, "prod"))
    assert [] == empty["images"]


def test_only_some_formats_are_written() -> None:
    """The others say so."""
    with pytest.raises(Malformed, match="kbld is only read"):
        write_lock(locked([]), LockFormat.KBLD, "prod")


# --- ImagesLock ------------------------------------------------------------------------------------------------------

IMAGES_LOCK = f"""---
apiVersion: imgpkg.carvel.dev/v1alpha1
images:
- annotations:
    kbld.carvel.dev/id: docker.io/envoyproxy/envoy:v1.31.0
    kbld.carvel.dev/origins: |
      - resolved:
          tag: v1.31.0
          url: docker.io/envoyproxy/envoy:v1.31.0
  image: index.docker.io/envoyproxy/envoy@{A}
- annotations:
    kbld.carvel.dev/id: nginx
  image: index.docker.io/library/nginx@{B}
- image: registry.example.com/bundle@{A}
- image: registry.example.com/bundle@{B}
  annotations:
    kbld.carvel.dev/id: quay.io/team/app:2
- image: registry.example.com/bundle@{B}
  annotations:
    kbld.carvel.dev/id: registry.example.com/bundle@{B}
kind: ImagesLock
"""


def test_imageslock() -> None:
    """The id of kbld gives the tag where it is of the same repository; what has none is listed."""
    found, skipped = read(IMAGES_LOCK)
    assert [f"docker.io/envoyproxy/envoy:v1.31.0@{A}", f"docker.io/library/nginx:latest@{B}"] == found
    assert [
        f"line 14: registry.example.com/bundle@{A}: has no tag; only tags are pinned",
        f"line 15: registry.example.com/bundle@{B}: {NO_TAG}; its id quay.io/team/app:2 is of another repository",
        f"line 18: registry.example.com/bundle@{B}: has no tag; only tags are pinned",
    ] == skipped


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("kind: ImagesLock", "kind: ImagesLock\nspec: {}"), "line 22: unknown key 'spec'"),
        (("- image:", "- tag: x\n  image:"), "line 14: unknown key 'tag'"),
        (("v1alpha1", "v1beta1"), "line 2: expected apiVersion"),
        ((f"bundle@{A}", "bundle:1"), "line 14: registry.example.com/bundle:1 has no digest"),
        ((f"bundle@{A}", "bundle@sha256:a"), "line 14: not a digest"),
        ((f"bundle@{A}", "BUNDLE@x"), "line 14: "),
        (("kbld.carvel.dev/id: nginx", "kbld.carvel.dev/id: [nginx]"), "line 11: the annotation"),
        (("images:\n", "images:\n  x: y\nold:\n"), "line 5: unknown key 'old'"),
        (("kind: ImagesLock", "kind: ImagesLock\nkind: ImagesLock"), "line 22: the key 'kind' is there twice"),
        (("kind: ImagesLock", "kind: ImagesLock\n---\na: b"), "line 1: 2 documents"),
    ],
)
def test_imageslock_is_read_as_strictly_as_imgpkg_does(change: tuple[str, str], said: str) -> None:
    """Unknown keys, other versions and images without a digest are errors."""
    with pytest.raises(Malformed, match=f"file, (?:{said}).*read as imageslock; --format forces another"):
        read(IMAGES_LOCK.replace(*change))


def test_a_tag_that_an_imageslock_contradicts_itself_about() -> None:
    """Two digests of one tag are refused; the same one twice is one pin."""
    again = IMAGES_LOCK.replace("kind: ImagesLock", "") + "kind: ImagesLock\n"
    entry = f"- image: docker.io/library/nginx:latest@{A}\n"
    with pytest.raises(Malformed, match=r"line 14: docker\.io/library/nginx:latest is locked to .* in line 4"):
        read(again.replace("images:\n", f"images:\n{entry}"))
    assert 2 == len(read(again.replace("images:\n", f"images:\n{entry}".replace(A, B)))[0])


def test_json_errors_name_the_path() -> None:
    """JSON has no lines to name: the path says where."""
    text = {"apiVersion": "imgpkg.carvel.dev/v1alpha1", "kind": "ImagesLock", "images": [{"image": "nginx:1"}]}
    with pytest.raises(Malformed, match=r"file, images\[0\]: nginx:1 has no digest"):
        read(json.dumps(text))


# --- the others ------------------------------------------------------------------------------------------------------


def test_kbld() -> None:
    """An override of a tag by a digest of the same repository is a pin."""
    text = f"""apiVersion: kbld.k14s.io/v1alpha1
kind: Config
minimumRequiredVersion: 0.44.0
overrides:
- image: nginx:1.27
  newImage: index.docker.io/library/nginx@{A}
  preresolved: true
- image: shop
  newImage: registry.example.com/shop@{B}
  preresolved: true
- image: old
  newImage: quay.io/team/new:3@{B}
- image: plain
  newImage: quay.io/team/plain:3
---
apiVersion: v1
kind: ConfigMap
overrides: text
"""
    found, skipped = read(text)
    assert [f"docker.io/library/nginx:1.27@{A}", f"quay.io/team/new:3@{B}"] == found
    assert [
        f"line 9: registry.example.com/shop@{B}: {NO_TAG}; what it replaces is no tag of that repository",
        "line 14: quay.io/team/plain:3: has no digest",
    ] == skipped


def test_compose() -> None:
    """Services with a digest are pins; variables, tags alone and builds are not."""
    text = f"""name: shop
x-web: &web
  image: nginx:1.27@{A}
services:
  web: *web
  again:
    <<: *web
    ports: ["80:80"]
  db:
    image: "postgres:16"
  own:
    build: .
  bare:
    image: redis@{B}
  any:
    image: ${{REGISTRY}}/app:1@{B}
"""
    found, skipped = read(text)
    assert [f"docker.io/library/nginx:1.27@{A}"] == found
    assert ["line 10", "line 14", "line 16"] == [each.partition(":")[0] for each in skipped]


@pytest.mark.parametrize(
    "digest", [A[:-1], f"{A}0", A.upper(), A.replace("sha256", "sha265"), "sha256:", "", "sha256", f"{A} "]
)
def test_a_compose_image_with_half_a_digest(digest: str) -> None:
    """An image with what is no digest is an error that names the line: to pass it over would lose a pin."""
    text = f'services:\n  good:\n    image: nginx:1.27@{A}\n  cut:\n    image: "redis:7@{digest}"\n'
    with pytest.raises(Malformed, match=r"compose\.yml, line 5: .*(digest|image)"):
        read_lock(text.encode(), "compose.yml")


KPROMO = f"""registries:
- name: gcr.io/example-staging
  src: true
- name: registry.k8s.io
- name: europe-docker.pkg.dev/example/images
  service-account: robot@example.com
images:
- name: pause
  dmap:
    "{A}": ["3.10", latest]
    "{B}": []
"""


def test_kpromo() -> None:
    """The map holds where images are promoted to, not where they come from; `3.10` stays a text."""
    found, skipped = read(KPROMO)
    assert [
        f"{registry}/pause:{tag}@{A}"
        for registry in ("europe-docker.pkg.dev/example/images", "registry.k8s.io")
        for tag in ("3.10", "latest")
    ] == found
    assert [f"line 11: pause@{B}: has no tag; only tags are pinned"] == skipped


def test_a_list_of_kpromo_needs_a_registry() -> None:
    """It names none itself: --prefix does, else nothing is guessed."""
    text = f'- name: coredns/coredns\n  dmap:\n    "{A}": [v1.11]\n'
    assert ([f"registry.k8s.io/coredns/coredns:v1.11@{A}"], []) == read(text, prefix="registry.k8s.io")
    found, skipped = read(text)
    assert ([], True) == (found, "--prefix" in skipped[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((f'"{B}": []', '"sha256:b": [x]'), "line 11: not a digest"),
        ((f'"{B}": []', f'"{B}": x'), r"line 11: .*dmap is no list"),
        ((f'"{B}": []', f'"{B}": [latest]'), "line 11: registry.k8s.io/pause:latest is locked to"),
        (("- name: pause\n  dmap", "- dmap"), "line 9: an image without a name"),
        (("- name: registry.k8s.io", "- src: false"), "line 4: a registry without a name"),
        (("latest]", "-bad]"), "line 10: not a tag"),
    ],
)
def test_kpromo_that_is_wrong(change: tuple[str, str], said: str) -> None:
    """Each error names its line."""
    with pytest.raises(Malformed, match=f"file, {said}"):
        read(KPROMO.replace(*change))


def test_lists_in_any_text() -> None:
    """Dockerfiles, workflows, prose: a name with a digest is found wherever it stands."""
    text = f"""# syntax=docker/dockerfile:1
FROM --platform=linux/amd64 golang:1.24@{A} AS build
RUN crane pull docker://ghcr.io/org/app:1@{B}, and "localhost:5000/x:y@{A}"
FROM ${{BASE}}/a:2@{A}
FROM busybox@{B}
Pin with name:tag@sha256:... or app:1@sha256:<digest>.
"""
    found, skipped = read(text)
    assert [f"docker.io/library/golang:1.24@{A}", f"ghcr.io/org/app:1@{B}", f"localhost:5000/x:y@{A}"] == found
    assert [
        f"line 4: /a:2@{A}: is no name of an image",
        f"line 5: busybox@{B}: has no tag; only tags are pinned",
    ] == skipped


def test_a_cut_digest_in_a_list_is_an_error() -> None:
    """It would drop a pin otherwise."""
    with pytest.raises(Malformed, match="line 2: a:1: not a digest"):
        read(f"\na:1@{A[:-1]}\n")
    for algorithm in ("sha265", "SHA256", "sha384"):
        with pytest.raises(Malformed, match="line 2: a:1: not a digest"):
            read(f"b:1@{B}\na:1@{A.replace('sha256', algorithm)}\n")
    with pytest.raises(Malformed, match=r"line 3: docker\.io/library/a:1 is locked to"):
        read(f"a:1@{A}\n\nlibrary/a:1@{B}")


def test_hostile_lists_take_linear_time() -> None:
    """A megabyte without an end in front of digests is looked at once."""
    text = "a" * 1_000_000 + f"/x:1@{A}\n" + f" @{A}" * 20_000
    found, skipped = read(text)
    assert (0, 20_001) == (len(found), len(skipped))


def test_skipped_text_cannot_command_a_terminal() -> None:
    """What does not print is replaced, and long text is cut."""
    _, skipped = read(f'services:\n  a:\n    image: "\\e[31m{"x" * 500}@{A}"\n', LockFormat.COMPOSE)
    assert (False, True) == ("\x1b" in skipped[0], len(skipped[0]) < 300)


def outcome(data: bytes, kind: LockFormat | None = None) -> None:
    """Read, or an error that names the file; anything else comes through."""
    said = "file, "
    try:
        read_lock(data, "file", kind)
    except Malformed as error:
        said = str(error)
    assert said.startswith("file, ")


@given(st.binary(max_size=300) | st.text("ab:/@sha256\n -{}[]'\"#image").map(str.encode), st.sampled_from(LockFormat))
def test_any_bytes_are_read_or_malformed(data: bytes, kind: LockFormat) -> None:
    """Nothing else is raised, whatever the bytes and however they are read."""
    for forced in (kind, None):
        outcome(data, forced)


@given(st.data(), st.sampled_from([IMAGES_LOCK, KPROMO]))
def test_damaged_files_are_read_or_malformed(data: st.DataObject, text: str) -> None:
    """A file in which a piece is missing or foreign never ends in anything else."""
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 30)))
    piece = data.draw(st.text("[]{}:-&*\n '\"~!", max_size=4))
    outcome((text[:start] + piece + text[stop:]).encode())


def test_differences() -> None:
    """Added, removed, changed; what is the same is not told, nor what only one side knows the size of."""
    before = locked([entry(f"ghcr.io/a:1@{A}"), entry(f"ghcr.io/a:2@{A}"), entry(f"ghcr.io/a:3@{A}")])
    sized = Locked(entry(f"ghcr.io/a:1@{A}").reference, Digest.parse(A), INDEX, 5)
    after = locked([sized, entry(f"ghcr.io/a:2@{B}"), entry(f"ghcr.io/a:4@{A}")])
    assert [("changed", "ghcr.io/a:2"), ("removed", "ghcr.io/a:3"), ("added", "ghcr.io/a:4")] == [
        (each.kind, str(each.reference)) for each in differences(before, after)
    ]
