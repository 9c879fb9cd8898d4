"""Environments as clients meet them: each way leads to the pins of one environment, and content is the same in all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from iarproxy.ledger import DEFAULT, Change, EventKind
from iarproxy.oci import Digest, Repository, Tag, TagReference, routing
from images import Published, artifact, small_image
from registry_faults import Fault
from serving import Reply, until
from whole import HUB, OTHER, Whole, whole

ONE, TWO = small_image(1), small_image(2)
APP = TagReference(Repository(HUB, "team/app"), Tag("1"))
ENVIRONMENTS: dict[str, Any] = {
    "prod": {"pins_from": "promotion", "hosts": ["prod.test"], "path_prefix": "prod", "promote_from": "staging"},
    "staging": {"pins_from": "first-fetch", "path_prefix": "staging"},
    "site": {"pins_from": "lock", "path_prefix": "site"},
}
WAYS = [("/v2/", "prod.test"), ("/v2/", "prod.test:5000"), ("/v2/prod/", "mirror.test")]


@asynccontextmanager
async def a_whole(folder: Path, **sections: Any) -> AsyncIterator[Whole]:
    async with whole(folder, environments=ENVIRONMENTS, **sections) as made:
        made.upstream.content.publish("team/app", "1", ONE)
        yield made


async def promote(
    made: Whole, image: Published, *, old: Digest | None = None, reference: TagReference = APP, to: str = "prod"
) -> None:
    """As a promotion ends, whatever judged it."""
    change = Change(to, reference, old, image.descriptor, "staging")
    await made.rooms.ledger.change(EventKind.PROMOTED, [change], reason="tested", actor="tester")


async def pulled(made: Whole, prefix: str, host: str = "mirror.test", name: str = "team/app", tag: str = "1") -> Reply:
    """What a client gets; asked twice, once with the lane cold, and the same both times."""
    first = await made.ask(f"{prefix}{name}/manifests/{tag}", host=host)
    again = await made.ask(f"{prefix}{name}/manifests/{tag}", host=host)
    moving = ("date", "iar-cache")
    assert [
        {key: value for key, value in each.headers.items() if key not in moving} for each in (first, again)
    ] == 2 * [{key: value for key, value in first.headers.items() if key not in moving}]
    assert first.body == again.body
    return again


def test_the_default_environment_has_one_name() -> None:
    """Routing cannot import the ledger; both call it the same."""
    assert DEFAULT == routing.DEFAULT


@pytest.mark.parametrize(("prefix", "host"), WAYS)
async def test_what_was_promoted_is_served_although_others_moved(tmp_path: Path, prefix: str, host: str) -> None:
    """Upstream moved, dev drifted and says so, staging pinned the new one: prod has what was promoted, and no word."""
    async with a_whole(tmp_path) as made:
        assert ONE.raw == (await pulled(made, "/v2/")).body
        await promote(made, ONE)
        made.upstream.content.publish("team/app", "1", TWO)
        await made.rooms.mirror.drift.check(APP)
        assert TWO.raw == (await pulled(made, "/v2/staging/")).body
        dev, prod = await pulled(made, "/v2/"), await pulled(made, prefix, host)
        assert (ONE.raw, True, None) == (dev.body, "warning" in dev.headers, dev.headers.get("iar-environment"))
        assert (200, ONE.raw, str(ONE.digest)) == (prod.status, prod.body, prod.headers["docker-content-digest"])
        assert (False, False, "prod") == (
            "warning" in prod.headers,
            "iar-upstream-digest" in prod.headers,
            prod.headers["iar-environment"],
        )
        assert prod.headers["iar-pin"].startswith("pinned; since=")


@pytest.mark.parametrize(("prefix", "host"), WAYS)
async def test_what_was_not_promoted_is_refused(tmp_path: Path, prefix: str, host: str) -> None:
    """403 with the command that would bring it in, although dev has it; upstream hears nothing of it."""
    async with a_whole(tmp_path) as made:
        await pulled(made, "/v2/")
        made.upstream.forget()
        found = await pulled(made, prefix, host)
        error = orjson.loads(found.body)["errors"][0]
        assert (403, "DENIED", "prod") == (found.status, error["code"], error["detail"]["environment"])
        command = f"iarproxy promote {APP} --from staging --to prod --reason TEXT"
        expected = f"iarproxy: {APP} is not promoted to the environment prod; `{command}` brings it in"
        assert expected == error["message"]
        assert 0 == made.upstream.count(part="/manifests/1")


async def test_what_is_in_no_lock_file_is_refused(tmp_path: Path) -> None:
    """As what is not promoted; the command is another one."""
    async with a_whole(tmp_path) as made:
        found = await pulled(made, "/v2/site/")
        message = orjson.loads(found.body)["errors"][0]["message"]
        assert (403, 0) == (found.status, made.upstream.count())
        assert f"{APP} is not in the lock file of the environment site; `iarproxy lock import" in message


@pytest.mark.parametrize(("prefix", "reason"), [("prod", "not-promoted"), ("site", "not-in-lock")])
async def test_refusal_stop_holds_clients_back(tmp_path: Path, prefix: str, reason: str) -> None:
    """A client that would go on to the real upstream gets the refusal manifest, which names the environment."""
    async with a_whole(tmp_path, server={"refusal": "stop"}) as made:
        target = f"/v2/{prefix}/team/app/manifests/1"
        found = await made.ask(target, "GET", "User-Agent: containerd/1.6.20")
        assert (200, f"application/vnd.iarproxy.refused.v1.{reason}-refused+json") == (
            found.status,
            found.headers["content-type"],
        )
        assert prefix == found.headers["iar-environment"]
        assert f"the environment {prefix}" in found.headers["warning"]
        assert 403 == (await made.ask(target, "GET", "User-Agent: crane/1")).status
        assert 0 == made.upstream.count()


async def test_content_is_the_same_in_all(tmp_path: Path) -> None:
    """By digest, prod serves what only dev pulled, and fetches what nobody did."""
    async with a_whole(tmp_path) as made:
        await pulled(made, "/v2/")
        for image in (ONE, made.upstream.content.publish("team/app", None, TWO)):
            found = await pulled(made, "/v2/prod/", tag=str(image.digest))
            assert (200, image.raw) == (found.status, found.body)
            assert "iar-environment" not in found.headers
            layer = image.layers[0]
            assert image.blobs[layer] == (await made.ask(f"/v2/prod/team/app/blobs/{layer}")).body


async def test_an_act_is_seen_in_its_environment_at_once(tmp_path: Path) -> None:
    """A promotion over an older one replaces prod's hot answer and nobody else's."""
    async with a_whole(tmp_path) as made:
        await pulled(made, "/v2/")
        await promote(made, ONE)
        assert ONE.raw == (await pulled(made, "/v2/prod/")).body
        made.upstream.content.publish("team/app", None, TWO)
        await promote(made, TWO, old=ONE.digest)
        assert TWO.raw == (await pulled(made, "/v2/prod/")).body
        assert ONE.raw == (await pulled(made, "/v2/")).body
        removed = Change("prod", APP, TWO.digest, None)
        await made.rooms.ledger.change(EventKind.REMOVED, [removed], reason="tested", actor="tester")
        assert 403 == (await pulled(made, "/v2/prod/")).status
        assert 1 == made.upstream.count(part="/manifests/1")


async def test_tag_lists_show_the_environment(tmp_path: Path) -> None:
    """Prod lists its pins under the spelling of the client, and pages lead back through the prefix."""
    async with a_whole(tmp_path) as made:
        for tag in "1", "2", "3":
            made.upstream.content.publish("team/app", tag, ONE)
        await pulled(made, "/v2/")
        for tag in "1", "2":
            await promote(made, ONE, reference=TagReference(APP.repository, Tag(tag)))
        made.upstream.forget()
        target = f"/v2/prod/{HUB}/team/app/tags/list"
        whole_list = await made.ask(target)
        assert {"name": f"prod/{HUB}/team/app", "tags": ["1", "2"]} == orjson.loads(whole_list.body)
        assert "prod" == whole_list.headers["iar-environment"]
        page = await made.ask(f"{target}?n=1")
        link = page.headers["link"].partition(">")[0].removeprefix("<")
        assert link.startswith(target)
        assert ["2"] == orjson.loads((await made.ask(link)).body)["tags"]
        empty = await made.ask("/v2/prod/team/other/tags/list")
        assert (404, 0) == (empty.status, made.upstream.count(part="/tags/list"))
        assert "the environment prod has no tag of" in empty.body.decode()
        staging = await made.ask("/v2/staging/team/app/tags/list")
        assert {"name": "staging/team/app", "tags": ["1", "2", "3"]} == orjson.loads(staging.body)


async def test_signatures_and_referrers_go_on_working(tmp_path: Path) -> None:
    """What is attached belongs to digests: prod finds what upstream has, and what was found serves without it."""
    async with a_whole(tmp_path) as made:
        signature = artifact(ONE)
        made.upstream.content.publish("team/app", None, signature)
        made.upstream.content.publish("team/app", f"sha256-{ONE.digest.hex}.sig", signature)
        await pulled(made, "/v2/")
        await promote(made, ONE)
        for _ in range(2):
            found = await pulled(made, "/v2/prod/", tag=f"sha256-{ONE.digest.hex}.sig")
            assert (200, signature.raw) == (found.status, found.body)
            listed = await made.ask(f"/v2/prod/team/app/referrers/{ONE.digest}")
            assert [str(signature.digest)] == [each["digest"] for each in orjson.loads(listed.body)["manifests"]]
            await made.upstream.stop()


async def test_tag_rules(tmp_path: Path) -> None:
    """`refuse` counts everywhere, `follow` only where first fetches pin."""
    rules = [{"match": f"{HUB}/team/app:bad", "mode": "refuse"}, {"match": f"{HUB}/team/app:*", "mode": "follow"}]
    async with a_whole(tmp_path, tags=rules) as made:
        bad = TagReference(APP.repository, Tag("bad"))
        await promote(made, ONE, reference=bad)
        for prefix in ("/v2/", "/v2/staging/", "/v2/prod/"):
            assert "refused by the tag rule" in (await pulled(made, prefix, tag="bad")).body.decode()
        for prefix in ("/v2/", "/v2/staging/"):
            assert (await pulled(made, prefix)).headers["iar-pin"].startswith("followed")
        assert 1 == made.upstream.count("GET", "/manifests/1")
        assert 403 == (await pulled(made, "/v2/prod/")).status
        await promote(made, ONE)
        assert (await pulled(made, "/v2/prod/")).headers["iar-pin"].startswith("pinned")


async def test_two_environments_in_one_request_are_refused(tmp_path: Path) -> None:
    """Neither is guessed."""
    async with a_whole(tmp_path) as made:
        found = await made.ask("/v2/staging/team/app/manifests/1", host="prod.test")
        assert 400 == found.status
        assert "prod by its host and staging by its path" in orjson.loads(found.body)["errors"][0]["message"]


async def test_staging_pins_by_itself(tmp_path: Path) -> None:
    """Two environments of first fetches keep what each saw first; an unreachable upstream changes neither."""
    async with a_whole(tmp_path) as made:
        assert ONE.raw == (await pulled(made, "/v2/", name=f"{OTHER}/team/app")).body
        made.upstream.content.publish("team/app", "1", TWO)
        assert TWO.raw == (await pulled(made, "/v2/staging/", name=f"{OTHER}/team/app")).body
        await made.upstream.stop()
        assert ONE.raw == (await pulled(made, "/v2/", name=f"{OTHER}/team/app")).body
        assert TWO.raw == (await pulled(made, "/v2/staging/", name=f"{OTHER}/team/app")).body
        assert [DEFAULT, "staging"] == await made.rooms.ledger.environments()


async def test_a_hint_of_drift_is_of_its_environment(tmp_path: Path) -> None:
    """A parent that tells of drift with a first pin of staging has staging's pin checked at once, and warned of."""
    async with a_whole(tmp_path) as made:
        await pulled(made, "/v2/")
        offered = made.upstream.content.publish("team/app", None, TWO)
        hint = Fault(headers={"IAR-Upstream-Digest": str(offered.digest)})
        made.upstream.faults.add("*/manifests/1", hint)
        await made.ask("/v2/staging/team/app/manifests/1")
        staging = made.rooms.ledger.within("staging")
        await until(lambda: staging.peek_drift(APP) is not None, 20)
        assert TWO.digest == staging.peek_drift(APP).offered.digest  # type: ignore[union-attr]  # the line above
        assert None is made.rooms.ledger.peek_drift(APP)
        assert "warning" in (await pulled(made, "/v2/staging/")).headers


async def test_the_log_names_the_environment(tmp_path: Path) -> None:
    """Of other environments than the default one, by the ordinary path and by the lane."""
    async with a_whole(tmp_path) as made:
        await pulled(made, "/v2/")
        await pulled(made, "/v2/staging/")
        await pulled(made, "/v2/prod/")
        made.outcomes()
        named = sorted(str(each.get("environment")) for each in made.records)
        assert ["None"] * 2 + ["prod"] * 2 + ["staging"] * 2 == named


async def test_the_probe_is_there(tmp_path: Path) -> None:
    """`setup --check` finds its image in every environment, and another one in each: it proves which one answered."""
    async with a_whole(tmp_path) as made:
        digests = set()
        for prefix in ("/v2/", "/v2/prod/", "/v2/site/"):
            found = await pulled(made, prefix, name="library/iarproxy-check", tag="pass-12345678")
            assert 200 == found.status
            digests.add(found.headers["docker-content-digest"])
            denied = await pulled(made, prefix, name="library/iarproxy-check", tag="deny-12345678")
            assert 403 == denied.status
        assert 3 == len(digests)
        assert 0 == made.upstream.count()
