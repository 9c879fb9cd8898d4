"""Ten delta bundles in a chain, of which one is lost: nothing is half-applied, and what is missing is said."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from airgap_world import UPSTREAM, Place, a_site, an_origin
from images import Published, image, random_blob

pytestmark = pytest.mark.timeout(300)
LINKS = 10
LOST = 4
LAYER = 2_500_000  # bytes; one percent of it is more than what names and proofs take


def name(number: int) -> str:
    return f"{UPSTREAM}/team/app:{number}"


def link(number: int) -> Published:
    """The image that the bundle of that number brings: two layers of its own, and one that all have."""
    layers = (random_blob(50_000), random_blob(LAYER, number), random_blob(1_000, number + 100))
    return image(*layers, labels={"number": str(number)})


def fresh(number: int) -> dict[str, int]:
    """What only the image of that number consists of, with sizes in bytes."""
    shared = link(number).layers[0]
    own = {str(digest): len(data) for digest, data in link(number).blobs.items() if digest != shared}
    return own | {str(link(number).digest): len(link(number).raw)}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


class Chain:
    """An origin whose set grows by an image a time, and what it carried out so far.

    Attributes:
        carried: the folders of bundles 1 to 10, each a delta since the one before.
        receipts: what the site said of each that it applied.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.origin, self.site = an_origin(folder / "origin"), a_site(folder / "site")
        self.origin.done("keys", "create", "team")
        self.carried: dict[int, Path] = {}
        self.receipts: dict[int, Path] = {}

    def grow(self, number: int) -> None:
        """The set has that many images now; a bundle of what is new since the last one."""
        self.origin.sync("site-a", {name(each): link(each) for each in range(1, number + 1)})
        base: list[str | Path] = ["--since", self.carried[number - 1]] if number > 1 else ["--full"]
        self.carried[number] = self.create(str(number), *base)

    def create(self, called: str, *base: str | Path) -> Path:
        key: list[str | Path] = ["--sets", self.origin.sets_file, "--key", self.origin.folder / "team.key"]
        self.origin.done("bundle", "create", "site-a", *key, *base, "-o", self.folder / called)
        return self.folder / called

    def applying(self, folder: Path) -> list[str | Path]:
        """The words of the command."""
        receipt = folder.with_suffix(".receipt")
        return ["bundle", "apply", folder, "--trust", self.origin.folder / "team.pub", "--receipt", receipt]

    def apply(self, number: int) -> None:
        self.site.done(*self.applying(self.carried[number]))
        self.receipts[number] = self.carried[number].with_suffix(".receipt")


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


@contextmanager
def a_reader(site: Place, *names: str) -> Iterator[list[str]]:
    """Somebody who pulls these images from the site again and again; what was pulled so far."""
    pulled: list[str] = []
    failed: list[BaseException] = []
    over = threading.Event()

    def read() -> None:
        try:
            while not over.is_set():
                for each in names:
                    site.pull(each)
                    pulled.append(each)
        except BaseException as error:  # noqa: BLE001  # told where the reader is waited for
            failed.append(error)

    thread = threading.Thread(target=read, name="reader")
    thread.start()
    try:
        yield pulled
    finally:
        over.set()
        thread.join(60)
    assert failed == []


def test_a_link_is_lost(chain: Chain) -> None:
    """Every bundle after the lost one is refused by naming what is missing, the store stays as it is and serves on, and
    a bundle made from the last receipt brings all of it.
    """
    for number in range(1, LINKS + 1):
        chain.grow(number)
    for number in range(1, LOST):
        chain.apply(number)
    pinned = chain.site.pins()
    with chain.site.serving(), a_reader(chain.site, *map(name, range(1, LOST))) as pulled:
        chain.site.wait_listed()
        before = chain.site.holdings()
        for number in range(LOST + 1, LINKS + 1):
            said = chain.site.refused("missing-base", *chain.applying(chain.carried[number])).out
            missing = {digest for lost in range(LOST, number) for digest in fresh(lost)}
            assert (min(len(missing), 20), number == LOST + 1) == (
                sum(digest in said for digest in missing),
                missing == set(fresh(LOST)),
            )
            assert f"continues bundle {number - 1}, and" in said
            assert before == chain.site.holdings()
        chain.site.done("bundle", "receipt", "site-a", "--pub", chain.folder / "site.pub")
        again = chain.create("again", "--receipt", chain.receipts[LOST - 1], "--trust", chain.folder / "site.pub")
        assert pinned == chain.site.pins()
        chain.site.done(*chain.applying(again))
        assert [name(each) for each in range(1, LINKS + 1)] == sorted(
            chain.site.pins(), key=lambda each: (len(each), each)
        )
        for number in range(1, LINKS + 1):
            chain.site.pull(name(number))
    assert len(pulled) > LINKS
    chain.site.refused("replayed", *chain.applying(chain.carried[LOST + 1]))


def test_a_chain_without_receipts(chain: Chain) -> None:
    """With no way back, each delta since the one before is at most its new blobs and one percent, and applies."""
    for number in range(1, LINKS + 1):
        chain.grow(number)
        allowed = sum(fresh(number).values()) * 101 // 100 + (50_000 if number == 1 else 0)
        assert size_of(chain.carried[number]) <= allowed
        chain.apply(number)
        assert chain.origin.pins() == chain.site.pins()


def test_a_link_is_lost_for_a_site_that_says_nothing(chain: Chain) -> None:
    """Where no receipt comes back, a new bundle since the last one that arrived brings all that was lost."""
    for number in range(1, LOST + 2):
        chain.grow(number)
        if number < LOST:
            chain.apply(number)
    chain.site.refused("missing-base", *chain.applying(chain.carried[LOST + 1]))
    chain.site.done(*chain.applying(chain.create("again", "--since", chain.carried[LOST - 1])))
    assert chain.origin.pins() == chain.site.pins()


def test_nothing_is_new(chain: Chain) -> None:
    """A delta of a set of twenty names in which nothing changed is under 100 KB, and applies."""
    names = {f"{UPSTREAM}/team/app-{each}:1": image(random_blob(2_000, each)) for each in range(20)}
    chain.origin.sync("site-a", names)
    chain.carried[1] = chain.create("1", "--full")
    chain.apply(1)
    chain.site.done("bundle", "receipt", "site-a", "--pub", chain.folder / "site.pub")
    before = chain.site.pins()
    bases: dict[str, list[str | Path]] = {
        "receipt": ["--receipt", chain.receipts[1], "--trust", chain.folder / "site.pub"],
        "since": ["--since", chain.carried[1]],
    }
    for called, base in bases.items():
        unchanged = chain.create(called, *base)
        assert size_of(unchanged) < 100_000
        chain.site.done(*chain.applying(unchanged))
        assert before == chain.site.pins()
