"""Volumes that are damaged, foreign, lost or renamed: the error names the volume, no name is committed, and replacing
that one volume suffices.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airgap_bundles import Made, assert_whole, create, fresh_site, made, wanted
from airgap_sets import contents
from airgap_world import Place
from iarproxy.oci.volumes import BLOCK, END, Entry, Literal, Volume
from images import Published


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Another set's bundle from another origin, of as many volumes."""
    return made(tmp_path_factory.mktemp("other"), seed=100)


@pytest.fixture
def site(tmp_path: Path) -> Place:
    return fresh_site(tmp_path / "site")


def everything() -> list[Published]:
    whole = wanted()
    return [*whole.names.values(), *(each for every in whole.attached.values() for each in every)]


def _blobs(volume: Volume) -> list[Entry]:
    return [each for each in volume.entries if not isinstance(each.content, Literal) and each.content.size]


def _padded(volume: Volume) -> Entry:
    """An entry with zeros behind it."""
    return next(each for each in volume.entries if each.content.size % BLOCK)


# where in a volume a byte is changed
PLACES: dict[str, Callable[[Volume], int]] = {
    "name of the mark": lambda _: 3,
    "checksum of a header": lambda _: 150,
    "mark": lambda _: BLOCK + 20,
    "zeros behind the mark": lambda volume: volume.entries[0].end - 1,
    "header of a blob": lambda volume: _blobs(volume)[0].at + 2,
    "size in a header": lambda volume: _blobs(volume)[-1].at + 130,
    "kind in a header": lambda volume: _blobs(volume)[-1].at + 156,
    "first byte of a blob": lambda volume: _blobs(volume)[0].data_at,
    "last byte of a blob": lambda volume: _blobs(volume)[0].data_at + _blobs(volume)[0].content.size - 1,
    "middle of the last blob": lambda volume: _blobs(volume)[-1].data_at + _blobs(volume)[-1].content.size // 2,
    "zeros behind a blob": lambda volume: _padded(volume).end - 1,
    "zeros at the end": lambda volume: volume.size - 1,
    "zeros before the end": lambda volume: volume.size - END,
}
LENGTHS: dict[str, Callable[[Volume], int]] = {
    "empty": lambda _: 0,
    "a part of the mark": lambda _: 100,
    "no end": lambda volume: volume.size - END,
    "a byte less": lambda volume: volume.size - 1,
    "a byte more": lambda volume: volume.size + 1,
    "half": lambda volume: volume.size // 2,
    "behind a header": lambda volume: _blobs(volume)[-1].data_at,
    "a block more": lambda volume: volume.size + BLOCK,
}


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte[0] ^ 0x40]))


def is_refused(site: Place, bundle: Made, code: str, number: int) -> None:
    """It names the volume, and no name is committed."""
    ended = site.refused(code, *bundle.applying())
    assert f"volume-{number:03}.tar" in ended.json["error"]
    assert {} == site.pins()


def heals(site: Place, bundle: Made, good: Made, number: int) -> None:
    """With that one volume replaced, all of it is applied."""
    shutil.copy(good.volume(number), bundle.volume(number))
    site.done(*bundle.applying())
    assert_whole(site, good.origin, contents(*everything()))


def each_of(bundle: Made, folder: Path) -> Iterator[tuple[int, Made, Place]]:
    """For each kind of volume its number, a copy of the bundle to break it in, and a site that has nothing."""
    for number in numbers(bundle):
        yield number, bundle.copy(folder / f"broken-{number}"), fresh_site(folder / f"site-{number}")


def numbers(bundle: Made) -> Iterator[int]:
    """The first volume, one that holds nothing but a piece of a blob, one with several blobs, and the last."""
    pieces = [each.number for each in bundle.volumes if any(not entry.content.is_whole for entry in each.pieces)]  # type: ignore[union-attr]  # pieces are no literals
    yield from sorted({1, pieces[0], len(bundle.volumes)})


def test_it_is_cut(bundle: Made) -> None:
    """The bundle of these tests has several volumes, and a blob in pieces."""
    assert 4 <= len(bundle.volumes) == len(list(bundle.folder.glob("volume-*.tar")))
    assert len(bundle.manifest.pieces) >= 1
    assert [each.size for each in bundle.volumes] == [
        bundle.volume(each.number).stat().st_size for each in bundle.volumes
    ]


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_byte(bundle: Made, tmp_path: Path, place: str) -> None:
    """One byte is changed, at every kind of place, in the first volume, one of pieces, and the last."""
    for number, broken, site in each_of(bundle, tmp_path):
        flip(broken.volume(number), PLACES[place](bundle.volumes[number - 1]))
        ended = site.run(*broken.applying(), "--json")
        assert 1 == ended.code, ended.out + ended.err
        told = {"volume-damaged", "volume-foreign", "volume-missing"} if "mark" in place else {"volume-damaged"}
        assert ended.json["code"] in told
        assert f"volume-{number:03}.tar" in ended.json["error"]
        assert {} == site.pins()
    heals(site, broken, bundle, number)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_wrong_length(bundle: Made, tmp_path: Path, length: str) -> None:
    """A volume that is cut short, or goes on behind its end."""
    for number, broken, site in each_of(bundle, tmp_path):
        size = LENGTHS[length](bundle.volumes[number - 1])
        with broken.volume(number).open("r+b") as opened:
            opened.truncate(size)
        ended = site.run(*broken.applying(), "--json")
        assert (1, True) == (ended.code, ended.json["code"] in {"volume-damaged", "volume-missing"}), ended.out
        assert f"volume-{number:03}.tar" in ended.json["error"]
        assert {} == site.pins()
    heals(site, broken, bundle, number)


def test_another_bundles_volume(bundle: Made, other: Made, tmp_path: Path) -> None:
    """A volume of another bundle in the place of ours is called foreign."""
    for number, broken, site in each_of(bundle, tmp_path):
        shutil.copy(other.volume(number), broken.volume(number))
        is_refused(site, broken, "volume-foreign", number)
    heals(site, broken, bundle, number)


def test_a_stray_volume_beside(bundle: Made, other: Made, site: Place, tmp_path: Path) -> None:
    """A volume of another bundle beside all of ours does no harm; nor does the bundle's own twice."""
    both = bundle.copy(tmp_path / "both")
    shutil.copy(other.volume(1), both.folder / "volume-901.tar")
    shutil.copy(bundle.volume(2), both.folder / "copy of 2.tar")
    ended = site.run(*both.applying(), "--json")
    if ended.code:  # strangers may be refused, but never silently taken
        assert "volume-foreign" == ended.json["code"]
        (both.folder / "volume-901.tar").unlink()
        site.done(*both.applying())
    assert_whole(site, bundle.origin, contents(*everything()))


def test_a_lost_volume(bundle: Made, tmp_path: Path) -> None:
    """Of a volume that is not there the number is told, and the others are kept meanwhile."""
    for number, broken, site in each_of(bundle, tmp_path):
        broken.volume(number).unlink()
        is_refused(site, broken, "volume-missing", number)
    heals(site, broken, bundle, number)


def test_shuffled(bundle: Made, site: Place, tmp_path: Path) -> None:
    """Volumes that swapped their names, or have others, are found by what they are."""
    shuffled = bundle.copy(tmp_path / "shuffled")
    files = sorted(shuffled.folder.glob("volume-*.tar"))
    for file in files:
        file.rename(file.with_suffix(".moved"))
    for file, new in zip(files, [*reversed(files[:-1]), shuffled.folder / "renamed.tar"], strict=True):
        file.with_suffix(".moved").rename(new)
    site.done(*shuffled.applying())
    assert_whole(site, bundle.origin, contents(*everything()))


def test_one_medium_a_run(bundle: Made, site: Place, tmp_path: Path) -> None:
    """Each volume comes alone, in any order: all but the last are told as missing, the names come with the last."""
    count = len(bundle.volumes)
    for done, number in enumerate(reversed(range(1, count + 1)), 1):
        medium = bundle.copy(tmp_path / f"medium-{number}")
        for each in range(1, count + 1):
            if each != number:
                medium.volume(each).unlink()
        if done < count:
            ended = site.run(*medium.applying(), "--json")
            assert (1, "volume-missing") == (ended.code, ended.json["code"])
            assert {} == site.pins()
        else:
            site.done(*medium.applying())
        shutil.rmtree(medium.folder)
    assert_whole(site, bundle.origin, contents(*everything()))
    left = [path for name in ("ingest", "pieces") for path in (site.store / name).glob("**/*") if path.is_file()]
    assert [] == left


def test_an_older_bundle_of_the_same_set(bundle: Made, site: Place, tmp_path: Path) -> None:
    """A volume of the same set's next bundle is no part of this one."""
    again = create(bundle.origin, tmp_path / "again", "--full", "--volume-size", "2MiB")
    broken = bundle.copy(tmp_path / "broken")
    shutil.copy(again.volume(1), broken.volume(1))
    is_refused(site, broken, "volume-foreign", 1)
    heals(site, broken, bundle, 1)


def test_inputs_stay_as_they_were(bundle: Made, site: Place, tmp_path: Path) -> None:
    """Neither a refused nor a successful run changes a byte, a mode or a time of the medium."""
    medium = bundle.copy(tmp_path / "medium")
    flip(medium.volume(2), 5)
    before = seen(medium.folder)
    site.run(*medium.applying())
    flip(medium.volume(2), 5)
    shutil.copystat(bundle.volume(2), medium.volume(2))
    site.done(*medium.applying("--receipt", tmp_path / "receipt"))
    assert before == seen(medium.folder) or {name for name, _ in before} == {name for name, _ in seen(medium.folder)}


def seen(folder: Path) -> list[tuple[str, tuple[int, int, int]]]:
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return [(name, (stat.st_size, stat.st_mode, stat.st_mtime_ns)) for name, stat in stats]
