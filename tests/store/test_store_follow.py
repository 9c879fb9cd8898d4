"""Following a blob that arrives: one transfer, right bytes, a withheld tail, and what happens when something breaks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from store_world import MIB, OpenStore, Source, body_of, leftovers, settled, some_bytes

from iarproxy.errors import UnknownBlob
from iarproxy.store import TAIL, Store


async def test_many_followers_share_one_transfer(store: Store) -> None:
    """Fifty followers that join over time get the right bytes by one fetch."""
    source = Source(some_bytes(2 * MIB), pause=0.001)

    async def late(number: int) -> bytes:
        await asyncio.sleep(number * 0.001)
        return await body_of(store.follow(source.digest, None, source.fetch))

    bodies = await asyncio.gather(*map(late, range(50)))
    assert set(bodies) == {source.data}
    assert source.starts == [0]
    await settled(store)
    assert leftovers(store) == []
    found = store.find(source.digest)
    assert found is not None
    assert found.size == 2 * MIB
    assert Path(found.path).stat().st_mode & 0o777 == 0o444


async def test_two_stores_share_one_transfer(open_store: OpenStore) -> None:
    """A second worker's followers follow the first one's leader."""
    one, two = await open_store(), await open_store()
    source = Source(some_bytes(2 * MIB), pause=0.002)
    ours = asyncio.gather(*(body_of(s.follow(source.digest, None, source.fetch)) for s in (one, two, one, two)))
    assert set(await ours) == {source.data}
    assert source.starts == [0]
    await settled(one)
    await settled(two)
    assert leftovers(one) == []


async def test_the_tail_is_withheld(store: Store) -> None:
    """Before the digest agreed, the last bytes are not readable though they are written."""
    source = Source(some_bytes(MIB), chunk=MIB)
    source.ends_cleanly = True
    async with store.follow(source.digest, None, source.fetch) as held:
        assert await held.readable(0) in (MIB - TAIL, MIB)
        assert await held.readable(MIB - TAIL) == MIB


async def test_upstreams_refusal_reaches_every_follower(open_store: OpenStore) -> None:
    """What upstream raised is raised on entering, with type and message, and the next request starts anew."""
    store = await open_store()
    source = Source(b"x", refuses=UnknownBlob("no such blob there"))
    for _ in range(2):
        with pytest.raises(UnknownBlob, match="no such blob there"):
            await body_of(store.follow(source.digest, None, source.fetch))
    assert source.starts == [0, 0]
    assert leftovers(store) == []
