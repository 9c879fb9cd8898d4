"""A process of its own that works on a ledger: `python ledger_worker.py WHAT PATH NUMBER COUNT`.

WHAT is one of:
race: pins COUNT tags, each to a digest of its own, in groups, and prints the digests that it was answered.
wait: the same for tags whose rule asks for an approval, each twice; prints what it was answered.
ack:  pins tags for ever and prints each one as it is answered, until it is killed.
gap:  pins one tag and is killed after the commit, before the line in the journal file.
uses: records COUNT times that 20 clients pulled one tag.
beside: asks for names when it is told to, and tells what it remembers, and in the end what it was answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from iarproxy.ledger import Use, Uses
from iarproxy.ledger.admission import admit
from iarproxy.ledger.journal import Entry
from iarproxy.oci import Tag
from iarproxy.trust import Admission
from iarproxy.trust.admission import Terms
from ledger_world import APP, SOURCE, content, database, opened, pin_name, tag, utc_now

GROUP = 20


async def race(path: Path, number: int, count: int) -> None:
    answers = {}
    async with opened(path, empty=False) as ledger:
        os.write(1, b"ready\n")
        sys.stdin.readline()
        for start in range(0, count, GROUP):
            names = [tag(f"t{each}") for each in range(start, min(start + GROUP, count))]
            pins = await asyncio.gather(*(ledger.add(name, content(f"{number} {name}"), SOURCE) for name in names))
            answers.update({pin.reference.tag.value: str(pin.descriptor.digest) for pin in pins})
    os.write(1, json.dumps(answers).encode())


async def wait(path: Path, number: int, count: int) -> None:
    answers = []
    async with opened(path, empty=False) as ledger:
        os.write(1, b"ready\n")
        sys.stdin.readline()
        for each in [*range(count), *range(count)]:
            name = tag(f"t{each}")
            found = await ledger.admit(name, content(f"{number} {name}"), SOURCE, Terms(Admission.APPROVED))
            answers.append(f"{type(found).__name__} {found.descriptor.digest}")
    os.write(1, json.dumps(answers).encode())


async def ack(path: Path, number: int, count: int) -> None:
    async with opened(path, empty=False) as ledger:

        async def one(name: str) -> None:
            pin = await ledger.add(tag(name), content(f"{number} {name}"), SOURCE)
            os.write(1, f"{name} {pin.descriptor.digest}\n".encode())

        for start in range(0, count, GROUP):
            await asyncio.gather(*(one(f"k{each}") for each in range(start, start + GROUP)))


def gap(path: Path) -> None:
    held = database(path, empty=False)

    class Killed:
        """The journal file of a process that dies when it comes to writing."""

        tail = staticmethod(held._outside.tail)

        @staticmethod
        def catch_up(_: Iterable[list[Entry]]) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    held._outside = Killed()  # type: ignore[assignment]  # it has what is needed of one
    held.write([lambda tx: admit(tx, pin_name("gap"), content("gap"), SOURCE)])


async def uses(path: Path, count: int) -> None:
    made = Uses(path.with_name("uses.db"), utc_now)
    clients = [f"10.0.0.{each}" for each in range(GROUP)]
    for _ in range(count):
        now = utc_now()
        await made.record([Use(APP, Tag("shared"), content("x").digest, client, now, now, 1) for client in clients])
    await made.close()


async def beside(path: Path) -> None:
    async with opened(path, empty=False) as ledger:
        await ledger.pin_of(tag("held"))
        os.write(1, b"ready\n")
        await asyncio.to_thread(sys.stdin.readline)
        first = asyncio.create_task(ledger.add(tag("fresh"), content("fresh"), SOURCE))
        other = asyncio.create_task(ledger.pin_of(tag("v0")))
        await asyncio.sleep(0)  # both have asked now
        os.write(1, b"asked\n")
        await asyncio.to_thread(sys.stdin.readline)
        held, waiting = ledger.peek(tag("held")), not first.done()
        os.write(1, f"{held.descriptor.digest if held else None} {waiting}\n".encode())
        pins = [await first, await other, await ledger.pin_of(tag("held"))]
        os.write(1, json.dumps([str(pin.descriptor.digest) if pin else None for pin in pins]).encode())


if __name__ == "__main__":
    what, where, who, many = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    match what:
        case "race":
            asyncio.run(race(where, who, many))
        case "wait":
            asyncio.run(wait(where, who, many))
        case "ack":
            asyncio.run(ack(where, who, many))
        case "uses":
            asyncio.run(uses(where, many))
        case "beside":
            asyncio.run(beside(where))
        case _:
            gap(where)
