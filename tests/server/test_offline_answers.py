"""What clients get of a server that is offline: what was brought as ever, and 404 at once for the rest."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from images import small_image
from registry import FakeRegistry
from whole import OTHER, whole

ABSENT = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("team/app/manifests/2", "MANIFEST_UNKNOWN"),
        (f"team/app/manifests/{ABSENT}", "MANIFEST_UNKNOWN"),
        (f"team/app/manifests/sha256-{'0' * 64}.sig", "MANIFEST_UNKNOWN"),
        (f"team/app/blobs/{ABSENT}", "BLOB_UNKNOWN"),
        ("team/none/tags/list", "NAME_UNKNOWN"),
    ],
)
async def test_what_is_missing(tmp_path: Path, target: str, code: str) -> None:
    """404 with the code of what was asked for, by GET and HEAD, without Retry-After: no client tries it for minutes."""
    upstream = FakeRegistry()
    async with whole(tmp_path, upstream=upstream, server={"offline": True}) as site:
        answer = await site.ask(f"/v2/{target}?ns={OTHER}")
        (told,) = orjson.loads(answer.body)["errors"]
        assert (404, code, "offline") == (answer.status, told["code"], told["detail"]["cause"])
        assert None is answer.headers.get("Retry-After")
        assert 404 == (await site.ask(f"/v2/{target}?ns={OTHER}", "HEAD")).status
    assert [] == upstream.log


async def test_what_was_brought(tmp_path: Path) -> None:
    """Tags, digests, blobs, tag lists and referrers that came before it was offline, none of them with a Warning."""
    upstream = FakeRegistry()
    image = upstream.content.publish("team/app", "1", small_image())
    (layer,) = image.layers
    targets = [
        "team/app/manifests/1",
        f"team/app/manifests/{image.digest}",
        f"team/app/blobs/{layer}",
        "team/app/tags/list",
        f"team/app/referrers/{image.digest}",
    ]
    async with whole(tmp_path, upstream=upstream) as online:
        before = [await online.ask(f"/v2/{each}?ns={OTHER}") for each in targets]
    asked = len(upstream.log)
    async with whole(tmp_path, upstream=upstream, server={"offline": True}) as site:
        after = [await site.ask(f"/v2/{each}?ns={OTHER}") for each in targets]
    assert [(each.status, each.body) for each in before] == [(each.status, each.body) for each in after]
    assert [None] * len(targets) == [each.headers.get("Warning") for each in after]
    assert asked == len(upstream.log)
