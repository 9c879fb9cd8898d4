"""`sets.toml`: what it may say, what each error says, and what its digest is over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from iarproxy.config.sets import ChartSection, ReferenceSection, RepositorySection, SetSection, SetsFile, load_sets
from iarproxy.errors import ConfigError
from iarproxy.oci import Digest, Platform
from iarproxy.oci.lock import Locked

EXAMPLE = Path(__file__).parent.parent / "config" / "sets.example.toml"
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
_ONE_REPOSITORY = "[[set.repositories]]\nname = 'a'\nnewest = 1"


def sets(folder: Path, text: str) -> SetsFile:
    file = folder / "sets.toml"
    file.write_text(text)
    return load_sets(file)


def section(body: str) -> str:
    return f'[[set]]\nname = "site-a"\n{body}\n'


def definition(folder: Path, body: str) -> Digest:
    return sets(folder, section(body))["site-a"].definition


def test_the_example_is_a_sets_file() -> None:
    """The shipped example loads, with every key that it shows."""
    found = load_sets(EXAMPLE)["site-a"]
    assert ["docker.io/library/alpine:3.20"] == list(map(str, found.references))
    assert ["registry.k8s.io/pause (semver >=3.8 <4, newest 2)"] == list(map(str, found.repositories))
    assert found.referrers


def test_the_example_shows_every_key(tmp_path: Path) -> None:
    """With everything that it shows switched on it is a sets file, and no key is left out."""
    file = tmp_path / "sets.toml"
    file.write_text(re.sub(r"^( *)# ([a-z]+ = |\{)", r"\1\2", EXAMPLE.read_text(), flags=re.MULTILINE))
    section = load_sets(file).sections["site-a"]
    assert set(SetSection.model_fields) == section.model_fields_set
    assert set(ReferenceSection.model_fields) == section.references[1].model_fields_set
    assert set(RepositorySection.model_fields) == section.repositories[0].model_fields_set
    assert set(ChartSection.model_fields) == section.charts[1].model_fields_set


def test_everything_it_may_say(tmp_path: Path) -> None:
    """Tags, digests, both, ranges, platforms, charts; names without a registry are Docker Hub's."""
    (tmp_path / "iar.lock").write_text(f"# iar.lock 1\nghcr.io/org/app:1@{ONE}\n")
    found = sets(
        tmp_path,
        section(
            f'references = ["tiny:1.0", "ghcr.io/a/b@{ONE}", "ghcr.io/a/b:2@{TWO}"]\nplatforms = ["linux/amd64"]\n'
            'locks = ["iar.lock"]\ncharts = ["oci://ghcr.io/org/charts/app:1.2.0"]\nreferrers = false\n'
            '[[set.repositories]]\nname = "quay.io/org/tool"\ntags = ["v*"]\nnewest = 3\nplatforms = []\n'
        ),
    )["site-a"]
    assert ["docker.io/library/tiny:1.0", f"ghcr.io/a/b@{ONE}", f"ghcr.io/a/b:2@{TWO}"] == list(
        map(str, found.references)
    )
    assert isinstance(found.references[2].wanted, Locked)
    assert ((Platform("linux", "amd64"),), ()) == (found.platforms, found.repositories[0].platforms)
    assert ["ghcr.io/org/app:1"] == [str(each.reference) for each in found.locks[0].lock.entries]
    assert ["ghcr.io/org/charts/app:1.2.0"] == list(map(str, found.charts))
    assert not found.referrers


def test_an_item_says_it_of_itself(tmp_path: Path) -> None:
    """References and repositories have platforms and attachments of their own, where they say so; else the set's."""
    own = f"{{reference = 'b:1@{ONE}', referrers = false, platforms = ['linux/arm64', 'linux/arm64']}}"
    body = f"references = ['a:1', 'a:1', {{reference = 'a:1'}}, {own}, {{reference = 'c:1', platforms = []}}]\n"
    body += "platforms = ['linux/amd64']\n[[set.repositories]]\nname = 'd'\nnewest = 1\nreferrers = true"
    found = sets(tmp_path, section(body))["site-a"]
    amd, arm = Platform("linux", "amd64"), Platform("linux", "arm64")
    assert [("docker.io/library/a:1", (amd,), None), (f"docker.io/library/b:1@{ONE}", (arm,), False)] == [
        (str(each), each.platforms, each.referrers) for each in found.references[:2]
    ]
    assert [("docker.io/library/c:1", (), None)] == [
        (str(each), each.platforms, each.referrers) for each in found.references[2:]
    ]
    assert [((amd,), True)] == [(each.platforms, each.referrers) for each in found.repositories]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("reference = ['a:1']", 'set "site-a": reference: unknown key; did you mean references?'),
        ("references = ['a:1']\n[[set.repositories]]\nname='a'\ntag=['1']", "0.tag: unknown key; did you mean tags?"),
        ("[[set.repositories]]\nname = 'a/b'", "which tags? write tags"),
        ("[[set.repositories]]\nname = 'a/b:1'\nnewest = 1", "names more than a repository"),
        ("[[set.repositories]]\nname = 'a/b'\nsemver = 'new'", "not a range of versions: 'new'"),
        ("[[set.repositories]]\nname = 'a/b'\ntags = ['[ab]']", "not a pattern of tags: '[ab]'"),
        ("[[set.repositories]]\nname = 'a/b'\nnewest = 0", "newest: "),
        ("references = ['UPPER:1']", "not a repository name: 'library/UPPER'"),
        ("references = ['a@sha256:12']", "sha256:12"),
        (f"references = ['a:sha256-{'a' * 64}.sig']", "is attached to an image; it comes with that"),
        ("references = [1]", "references.0.reference: not a text"),
        ("references = 'a:1'", 'references: not a list; write ["..."]'),
        ("references = [{reference = 'a:1', referrer = false}]", "0.referrer: unknown key; did you mean referrers?"),
        ("references = [{reference = 'a:1', referrers = 'no'}]", "references.0.referrers: "),
        ("references = [{reference = 'a:1', platforms = ['amd64']}]", "not a platform: 'amd64'"),
        ("references = [{referrers = false}]", "references.0.reference: missing; add it"),
        (
            "references = ['a:1', {reference = 'a:1', referrers = false}]",
            "references: docker.io/library/a:1 is there twice, with other platforms or referrers; keep one",
        ),
        (
            f"references = [{{reference = 'a:1@{ONE}', platforms = ['linux/arm64']}}, 'a:1']",
            "references: docker.io/library/a:1 is there twice",
        ),
        (
            f"{_ONE_REPOSITORY}\n{_ONE_REPOSITORY}\nreferrers = true",
            "repositories: docker.io/library/a (newest 1) is there twice",
        ),
        (f"{_ONE_REPOSITORY}\nreferrers = 1", "0.referrers: "),
        ("charts = ['ghcr.io/org/app']", "has no version"),
        ("platforms = ['amd64']\nreferences = ['a:1']", "not a platform: 'amd64'"),
        ("referrers = true", "empty; write references, repositories, locks or charts"),
        ("charts = ['ghcr.io/org/app:1', {reference = 'ghcr.io/a/b:1', value = 'x'}]", "1.value: unknown key; did you"),
        ("charts = [{reference = 'ghcr.io/a/b:1', values = ['no.yaml']}]", "charts: "),
        ("locks = ['none.lock']", "none.lock cannot be read: No such file"),
        ('locks = ["a\\u0000b"]', "cannot be read: embedded null byte"),
        ("[[set.repositories]]\nname = 'a/b'\nsemver = 1.20", "semver: a number; write it in quotes"),
        ("[[set.repositories]]\nname = 'a/b'\nnewest = true", "newest: "),
        ("references = ['a:1']\nreferrers = 'no'", "referrers: "),
        ("locks = ['bad.lock']", "bad.lock, line 2"),
        ("locks = ['sets.toml']", "locks: sets.toml names no image with a digest; write NAME:TAG@sha256:"),
    ],
)
def test_an_error_names_set_key_and_remedy(tmp_path: Path, body: str, said: str) -> None:
    """One line; nothing is ignored."""
    (tmp_path / "bad.lock").write_text("# iar.lock 1\nnonsense\n")
    with pytest.raises(ConfigError) as error:
        definition(tmp_path, body)
    assert said in str(error.value)
    assert f'{tmp_path}/sets.toml: set "site-a": ' in str(error.value)
    assert "\n" not in str(error.value)


def test_a_chart_is_named_as_for_helm(tmp_path: Path) -> None:
    """A `+` in a version is `_` in the tag that helm pushes."""
    found = sets(tmp_path, section("charts = ['oci://ghcr.io/org/app:1.2.0+build.1']"))["site-a"]
    assert ["ghcr.io/org/app:1.2.0_build.1"] == list(map(str, found.charts))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[set]\nname = 'a'", "write [[set]] with two brackets"),
        ("[[sets]]\nname = 'a'", "sets: unknown key; a sets file has [[set]] sections only"),
        ("[[set]]\nreferences = ['a:1']", "set number 1: name: missing; add it"),
        ("[[set]]\nname = 'A B'\nreferences = ['a:1']", "not a name of a set: 'A B'"),
        (section("references = ['a:1']") * 2, 'set "site-a" is there twice'),
        ("= 1", "not TOML"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    """The whole file is looked at, whichever set is wanted."""
    with pytest.raises(ConfigError) as error:
        sets(tmp_path, text)
    assert said in str(error.value)


def test_a_set_that_is_not_there(tmp_path: Path) -> None:
    """Those that are there are named; so is a file that cannot be read."""
    with pytest.raises(ConfigError, match=r"has no set 'site-b'; it has site-a"):
        sets(tmp_path, section("references = ['a:1']"))["site-b"]
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load_sets(tmp_path / "none.toml")


def test_the_definition_is_over_what_is_said(tmp_path: Path) -> None:
    """Order, comments and spelling change nothing; each key and each lock file does."""
    chosen = "[[set.repositories]]\nname = '{}'\ntags = [{}]\nsemver = '{}'\nplatforms = [{}]"
    once = chosen.format("c", "'a', 'b'", ">=1.2 <2", "'linux/amd64', 'linux/arm64'")
    again = chosen.format("library/c", "'b', 'a'", "< 2, >=v1.2.0", "'linux/arm64', 'linux/amd64', 'linux/arm64'")
    assert definition(tmp_path, once) == definition(tmp_path, again)
    (tmp_path / "iar.lock").write_text(f"# iar.lock 1\nghcr.io/org/app:1@{ONE}\n")
    base = definition(tmp_path, "references = ['a:1', 'b:1']")
    assert base == definition(tmp_path, "# why\nreferences = [\n  'docker.io/library/b:1',\n  'a:1',\n]")
    assert base == definition(tmp_path, "references = ['b:1', {reference = 'a:1', platforms = []}, 'b:1']")
    repository = "references = ['a:1', 'b:1']\n[[set.repositories]]\nname = 'c'\n"
    others = [
        definition(tmp_path, "references = ['a:1']"),
        definition(tmp_path, "references = ['a:1', 'b:1']\nreferrers = false"),
        definition(tmp_path, "references = ['a:1', 'b:1']\nplatforms = ['linux/amd64']"),
        definition(tmp_path, "references = ['a:1', 'b:1']\nlocks = ['iar.lock']"),
        definition(tmp_path, "references = ['a:1', {reference = 'b:1', referrers = false}]"),
        definition(tmp_path, "references = ['a:1', {reference = 'b:1', referrers = true}]"),
        definition(tmp_path, "references = ['a:1', {reference = 'b:1', platforms = ['linux/amd64']}]"),
        definition(tmp_path, f"{repository}tags = ['1']\nreferrers = false"),
        definition(tmp_path, f"{repository}tags = ['1']"),
        definition(tmp_path, f"{repository}tags = ['1']\nnewest = 1"),
        definition(tmp_path, f"{repository}tags = ['1']\nplatforms = ['linux/amd64']"),
    ]
    (tmp_path / "iar.lock").write_text(f"# iar.lock 1\nghcr.io/org/app:1@{TWO}\n")
    others.append(definition(tmp_path, "references = ['a:1', 'b:1']\nlocks = ['iar.lock']"))
    assert len(others) + 1 == len({base, *others})
