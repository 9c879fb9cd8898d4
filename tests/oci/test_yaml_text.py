"""YAML and JSON as plain values: what is read, what is refused, and how soon."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.errors import Malformed
from iarproxy.oci.yaml_text import MAX_TEXT, documents, line_of, text_of


def test_scalars_stay_what_is_written() -> None:
    """No scalar becomes a number, a moment or a boolean: `1.20` is a tag."""
    assert [["1.20", "2026-01-01", "yes", "0x10", "null", None]] == documents(
        "[1.20, 2026-01-01, yes, 0x10, 'null', null]".replace("[", "- ", 1).replace(", ", "\n- ").rstrip("]")
    )


def test_lines_are_known() -> None:
    """Texts and mappings know the line that they begin in."""
    (found,) = documents("a: x\nb:\n  c: y\n")
    assert isinstance(found, dict)
    assert isinstance(found["b"], dict)
    assert [1, 3, 3] == [line_of(found["a"]), line_of(found["b"]), line_of(found["b"]["c"])]


def test_json_is_read_as_json() -> None:
    """JSON with escapes that YAML lacks, and a flow mapping that is no JSON."""
    assert [{"a": "\U0001f600", "n": "1.50", "t": True, "z": None}] == documents(
        '{"a": "\\ud83d\\ude00", "n": 1.50, "t": true, "z": null}'
    )
    assert [{"a": {"b": "1"}}] == documents("{a: {b: 1}}")


def test_aliases_and_merges() -> None:
    """An alias repeats, a merge fills in what is not said; each document has its own anchors."""
    assert [{"x": {"i": "1", "j": "2"}, "y": {"i": "3", "j": "2"}}] == documents(
        "x: &x {i: 1, j: 2}\ny:\n  <<: *x\n  i: 3\n"
    )
    with pytest.raises(Malformed, match="line 3"):
        documents("&a x\n---\n*a\n")


def test_tags_construct_nothing() -> None:
    """What other loaders would run is a text."""
    assert [["echo", {"image": "x"}]] == documents("- !!python/object/apply:os.system echo\n- !reset {image: x}\n")


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
MERGES = "a: &a {" + ", ".join(f"k{i}: 1" for i in range(1000)) + "}\n"
MERGES += "b:\n" + "- <<: *a\n" * 5000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "line 8: unfolds"),
        (MERGES, "unfolds"),
        ("a: &a [*a]", "line 1: the alias"),
        ("[" * 1_000_000, "line 1: nested"),
        ("{" * 1_000_000, "line 1: nested"),
        ("- " * 1_000_000, "line 1: nested"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "line 1: nested"),
        ('{"a":' * 100 + "1" + "}" * 100, "line 1: nested"),
        ("a: 1\na: 2", "line 2: the key 'a' is there twice"),
        ('{"a": 1, "a": 2}', "key 'a': there twice"),
        ("? [a]\n: b", "line 1: a key"),
        ("a: b\n c: d", "line 2: not YAML"),
        ("a: \x01", "not YAML"),
        ("a: [b", "not YAML"),
        ("\t- a", "not YAML"),
    ],
)
def test_what_is_refused_is_refused_quickly(text: str, said: str) -> None:
    """What unfolds to billions, nests without end, or says a key twice is refused, with the line, while it is read."""
    with pytest.raises(Malformed, match=said):
        documents(text)


def test_bytes_become_text() -> None:
    """UTF-8 with or without a mark; what is no text is named with its line."""
    assert "a\r\n\u00fc" == text_of(b"\xef\xbb\xbfa\r\n\xc3\xbc")
    for data, said in [(b"a\nb\0", "line 2: a NUL"), (b"a\n\n\xff", "line 3: not UTF-8")]:
        with pytest.raises(Malformed, match=said):
            text_of(data)
    with pytest.raises(Malformed, match="split it"):
        text_of(bytes(MAX_TEXT + 1))


@given(st.text() | st.text("[]{}:-&*<> \n'\"#,ab!|>?%"))
def test_any_text_is_read_or_malformed(text: str) -> None:
    """Nothing else is raised, whatever the text."""
    with suppress(Malformed):
        documents(text)
