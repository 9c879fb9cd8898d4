"""What differs between the image that is pinned and the one that upstream offers: a value for people and for programs.

Rule 1: the input is what was fetched and hashed, and what upstream tells of signatures, which is labelled unverified.
Rule 2: what is not known is left out and named in `unread`; a difference is never invented, nor an error.
Rule 3: every text in it may be shown (`image_config`), and every list is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile

from iarproxy.oci import Descriptor, Manifest
from iarproxy.trust.image_config import ImageConfig, shown, shown_command, shown_value
from iarproxy.trust.signers import Signature

_LISTED = 100  # changes or layers of one image
_BASE = ("org.opencontainers.image.base.name", "org.opencontainers.image.base.digest")


@dataclass(frozen=True, slots=True)
class Image:
    """One platform's manifest; `config`: None: it is not known."""

    manifest: Manifest
    config: ImageConfig | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two contents.

    Attributes:
        images: by platform, those that are compared; of a single image, that one.
        signatures: what upstream tells of; None: not known.
        unread: what could not be had of it, for people.
    """

    manifest: Manifest
    images: Mapping[str, Image] = field(default_factory=dict)
    signatures: tuple[Signature, ...] | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not the same. None: it is not there."""

    what: str
    pinned: str | None
    offered: str | None


@dataclass(frozen=True, slots=True)
class Layers:
    """`shared`: how many leading layers are the same ones, as with a common base image; `total`: of those pinned."""

    shared: int
    total: int
    added: tuple[Descriptor, ...] = ()
    removed: tuple[Descriptor, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageDifference:
    """What differs for one platform. `created`: when each was built, where both say so and differently."""

    platform: str
    layers: Layers
    changes: tuple[Change, ...] = ()
    created: tuple[datetime, datetime] | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """All that is known to differ.

    Attributes:
        kind: the media types, where they differ.
        added, removed, changed: platforms of an index.
        images: of the platforms that were compared.
        signers: by whom each side seems to be signed, pinned first; None: not known.
    """

    kind: Change | None = None
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    images: tuple[ImageDifference, ...] = ()
    annotations: tuple[Change, ...] = ()
    signers: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    unread: tuple[str, ...] = ()


def compare(pinned: Side, offered: Side) -> Difference:
    """What differs from `pinned` to `offered`."""
    before, after = _platforms(pinned), _platforms(offered)
    images = [_image(name, pinned.images[name], offered.images[name]) for name in _both(pinned, offered)]
    types = pinned.manifest.descriptor.media_type, offered.manifest.descriptor.media_type
    return Difference(
        kind=None if types[0] == types[1] else Change("media type", *map(shown, types)),
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=_changed(before, after) if pinned.manifest.is_index or offered.manifest.is_index else (),
        images=tuple(each for each in images if each != ImageDifference(each.platform, _same(each.layers))),
        annotations=_map("annotation", _own(pinned.manifest.annotations), _own(offered.manifest.annotations)),
        signers=_signers(pinned, offered),
        unread=(*pinned.unread, *offered.unread),
    )


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name]))


def _same(layers: Layers) -> Layers:
    return Layers(layers.shared, layers.total)


def _both(pinned: Side, offered: Side) -> list[str]:
    return sorted(pinned.images.keys() & offered.images.keys())


def _platforms(side: Side) -> dict[str, tuple[str, ...]]:
    """The digests of each platform. A list's attestations run nowhere, and are none."""
    if not side.manifest.is_index:
        return {name: (str(image.manifest.descriptor.digest),) for name, image in side.images.items() if name}
    found: dict[str, tuple[str, ...]] = {}
    for child in side.manifest.children:
        name = shown(str(child.platform or ""))
        if name and not name.startswith("unknown"):
            found[name] = (*found.get(name, ()), str(child.descriptor.digest))
    return found


def _image(platform: str, pinned: Image, offered: Image) -> ImageDifference:
    changes = [*_base(pinned, offered)]
    if pinned.manifest.artifact_type != offered.manifest.artifact_type:
        changes.append(
            Change("artifact type", shown(pinned.manifest.artifact_type), shown(offered.manifest.artifact_type))
        )
    created = None
    if pinned.config is not None and offered.config is not None:
        changes += _configs(pinned.config, offered.config)
        dates = pinned.config.created, offered.config.created
        created = (dates[0], dates[1]) if dates[0] and dates[1] and dates[0] != dates[1] else None
    return ImageDifference(platform, _layers(pinned.manifest, offered.manifest), tuple(changes[:_LISTED]), created)


def _layers(pinned: Manifest, offered: Manifest) -> Layers:
    pairs = zip(pinned.layers, offered.layers, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0].digest == pair[1].digest, pairs))
    return Layers(
        shared=shared,
        total=len(pinned.layers),
        added=_beyond(offered.layers, pinned.layers)[:_LISTED],
        removed=_beyond(pinned.layers, offered.layers)[:_LISTED],
    )


def _beyond(layers: Iterable[Descriptor], others: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    """Those of `layers` that `others` does not have, as often as it does not have them."""
    left = Counter(each.digest for each in others)
    found = list[Descriptor]()
    for each in layers:
        if left[each.digest]:
            left[each.digest] -= 1
        else:
            found.append(each)
    return tuple(found)


def _configs(pinned: ImageConfig, offered: ImageConfig) -> list[Change]:
    found = [] if pinned.platform == offered.platform else [Change("platform", pinned.platform, offered.platform)]
    for name in dict.fromkeys([*pinned.settings, *offered.settings]):
        before, after = pinned.settings.get(name), offered.settings.get(name)
        if before != after:
            found.append(Change(name, _optional(shown_command, before), _optional(shown_command, after)))
    found += _map("env", pinned.env, offered.env)
    found += _map("label", pinned.labels, offered.labels)
    found += _set("port", pinned.ports, offered.ports)
    found += _set("volume", pinned.volumes, offered.volumes)
    return found


def _base(pinned: Image, offered: Image) -> tuple[Change, ...]:
    """The base image, as the two say themselves."""
    said = [
        {name: each.manifest.annotations[name] for name in _BASE if name in each.manifest.annotations}
        for each in (pinned, offered)
    ]
    found = [" ".join(map(shown, each.values())) or None for each in said]
    return () if said[0] == said[1] else (Change("base image", found[0], found[1]),)


def _own(annotations: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in annotations.items() if name not in _BASE}


def _map(what: str, pinned: Mapping[str, str], offered: Mapping[str, str]) -> tuple[Change, ...]:
    names = sorted(name for name in {*pinned, *offered} if pinned.get(name) != offered.get(name))
    return tuple(
        Change(f"{what} {shown(name)}", _value(name, pinned.get(name)), _value(name, offered.get(name)))
        for name in names[:_LISTED]
    )


def _set(what: str, pinned: frozenset[str], offered: frozenset[str]) -> list[Change]:
    gone = [Change(what, shown(each), None) for each in sorted(pinned - offered)]
    return gone + [Change(what, None, shown(each)) for each in sorted(offered - pinned)]


def _value(name: str, value: str | None) -> str | None:
    return None if value is None else shown_value(name, value)


def _optional(show: Callable[[tuple[str, ...]], str], words: tuple[str, ...] | None) -> str | None:
    return None if words is None else show(words)


def _signers(pinned: Side, offered: Side) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    if pinned.signatures is None or offered.signatures is None:
        return None
    first, second = (tuple(sorted({str(each) for each in side})) for side in (pinned.signatures, offered.signatures))
    return first, second
