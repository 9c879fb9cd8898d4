"""A difference in words: one line for logs and events, all of it for people, and JSON for programs.

Rule: the same difference gives the same words; what is left out for want of room is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from iarproxy.oci import Descriptor
from iarproxy.trust.difference import Change, Difference, ImageDifference, Layers

_NAMED = 3  # things of one kind in a line
_MOST = 300  # characters of the line
_LINES = 200
_STEPS = ((86400 * 365, "year"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def summary(difference: Difference) -> str:
    """The difference in one line, for example `2 layers replaced (31.2 MB), entrypoint changed`."""
    told = [*_kinds(difference), *_first_image(difference), *_named("annotation", difference.annotations)]
    told += _signed(difference)
    told += ["more is not known"] if difference.unread else []
    line = ", ".join(told) or "only what nobody compares differs"
    return line if len(line) <= _MOST else f"{line[: _MOST - 3]}..."


def text(difference: Difference) -> list[str]:
    """The whole difference, one line for each thing."""
    lines = [] if difference.kind is None else [_line(difference.kind)]
    lines += [f"platform {name}: {what}" for what, names in _platforms(difference) for name in names]
    for image in difference.images:
        lines += [f"{image.platform}: {line}" if difference.changed else line for line in _image_lines(image)]
    lines += map(_line, difference.annotations)
    if difference.signers is not None:
        pinned, offered = difference.signers
        lines.append(f"signatures (unverified): pinned: {_list(pinned)}; offered: {_list(offered)}")
    lines += [f"not known: {each}" for each in difference.unread]
    left = len(lines) - _LINES
    return lines if left <= 0 else [*lines[:_LINES], f"and {left} more"]


def as_json(difference: Difference) -> dict[str, Any]:
    """The difference for programs; what is null or empty does not differ, or is not known."""
    signers = difference.signers
    return {
        "media_type": None if difference.kind is None else _change(difference.kind),
        "platforms": {name: list(names) for name, names in _platforms(difference)},
        "images": [_image(each) for each in difference.images],
        "annotations": [_change(each) for each in difference.annotations],
        "signers_unverified": None if signers is None else {"pinned": list(signers[0]), "offered": list(signers[1])},
        "unread": list(difference.unread),
    }


def size(count: int) -> str:
    """A number of bytes, in decimal units as registries show them."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:  # noqa: PLR2004  # the step between two units
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def span(time: timedelta) -> str:
    """A time in its largest unit, for example `3 days`."""
    seconds = abs(round(time.total_seconds()))
    for length, unit in _STEPS:
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    return "less than a second"


def _platforms(difference: Difference) -> list[tuple[str, tuple[str, ...]]]:
    return [("added", difference.added), ("removed", difference.removed), ("changed", difference.changed)]


def _kinds(difference: Difference) -> list[str]:
    told = [] if difference.kind is None else ["media type changed"]
    for what, names in _platforms(difference)[:2]:
        told += [f"{_few(names)} {what}"] if names else []
    return told


def _first_image(difference: Difference) -> list[str]:
    """The first image that differs, and how many more do."""
    if not difference.images:
        return [f"{_few(difference.changed)} changed"] if difference.changed else []
    image = difference.images[0]
    told = [*_layers(image.layers), *_changes(image.changes), *_created(image)]
    several = len(difference.changed) > 1 and image.platform
    if told and several:
        told[0] = f"{image.platform}: {told[0]}"
        told.append(f"{len(difference.changed) - 1} more platforms changed")
    return told


def _layers(layers: Layers) -> list[str]:
    added, removed = len(layers.added), len(layers.removed)
    if added == removed:
        return [f"{_count(added, 'layer')} replaced ({_sum(layers.added)})"] if added else []
    told = [f"{_count(added, 'layer')} added ({_sum(layers.added)})"] if added else []
    return told + ([f"{_count(removed, 'layer')} removed ({_sum(layers.removed)})"] if removed else [])


def _changes(changes: Sequence[Change]) -> list[str]:
    """Settings by their names; of env, labels, ports and volumes how many, or the few names."""
    groups: dict[str, list[Change]] = {}
    for each in changes:
        kind, _, name = each.what.partition(" ")
        groups.setdefault(kind if name and kind in ("env", "label") else each.what, []).append(each)
    told = list[str]()
    for kind, found in groups.items():
        told += _named(kind, found) if kind in ("env", "label") else [f"{kind} changed"]
    return told


def _named(kind: str, changes: Sequence[Change]) -> list[str]:
    if not changes:
        return []
    if len(changes) > _NAMED:
        return [f"{len(changes)} {kind if kind == 'env' else f'{kind}s'} changed"]
    return [f"{kind} {', '.join(each.what.partition(' ')[2] for each in changes)} changed"]


def _created(image: ImageDifference) -> list[str]:
    if image.created is None:
        return []
    later = image.created[1] - image.created[0]
    return [f"created {span(later)} {'later' if later > timedelta(0) else 'earlier'}"]


def _signed(difference: Difference) -> list[str]:
    if difference.signers is None or difference.signers[0] == difference.signers[1]:
        return []
    pinned, offered = difference.signers
    if not offered:
        return ["no longer signed (as upstream tells)"]
    return ["signed now (unverified)" if not pinned else "signatures differ (unverified)"]


def _image_lines(image: ImageDifference) -> list[str]:
    layers = image.layers
    lines = [f"{layers.shared} of {_count(layers.total, 'layer')} at the bottom are the same"]
    lines += [f"layer removed: {each.digest} ({size(each.size)})" for each in layers.removed]
    lines += [f"layer added: {each.digest} ({size(each.size)})" for each in layers.added]
    lines += map(_line, image.changes)
    if image.created is not None:
        before, after = (each.isoformat(timespec="seconds") for each in image.created)
        lines.append(f"created: {before} -> {after}")
    return lines


def _line(change: Change) -> str:
    before, after = (("(none)" if each is None else each or "''") for each in (change.pinned, change.offered))
    return f"{change.what}: {before} -> {after}"


def _image(image: ImageDifference) -> dict[str, Any]:
    created = image.created
    return {
        "platform": image.platform or None,
        "layers": {
            "shared": image.layers.shared,
            "added": [_descriptor(each) for each in image.layers.added],
            "removed": [_descriptor(each) for each in image.layers.removed],
        },
        "changes": [_change(each) for each in image.changes],
        "created": None if created is None else {"pinned": created[0].isoformat(), "offered": created[1].isoformat()},
    }


def _change(change: Change) -> dict[str, str | None]:
    return {"what": change.what, "pinned": change.pinned, "offered": change.offered}


def _descriptor(descriptor: Descriptor) -> dict[str, str | int]:
    return {"digest": str(descriptor.digest), "size": descriptor.size}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED else f"{len(names)} platforms"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _sum(layers: Iterable[Descriptor]) -> str:
    return size(sum(each.size for each in layers))
