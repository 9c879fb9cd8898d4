"""Tag policies: which rule a tag has; verdicts: what upstream's answer means."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.errors import Malformed
from iarproxy.oci import Digest, TagReference, parse_reference
from iarproxy.trust import Drifted, Mode, OnDrift, Pattern, Steady, TagRule, Vanished, judge, rule_for


def tagged(text: str) -> TagReference:
    reference = parse_reference(text)
    assert isinstance(reference, TagReference)
    return reference


@pytest.mark.parametrize(
    ("pattern", "reference", "fits"),
    [
        ("docker.io/library/*:latest", "alpine", True),
        ("docker.io/library/*:latest", "alpine:3", False),
        ("docker.io/library/*:latest", "grafana/grafana", False),
        ("docker.io/library/*", "alpine:3.20", True),
        ("docker.io/*", "alpine:3", False),
        ("docker.io/**", "alpine:3", True),
        ("**", "ghcr.io/org/team/app:1", True),
        ("**:v*", "ghcr.io/org/team/app:v1", True),
        ("**:v*", "ghcr.io/org/team/app:1", False),
        ("ghcr.io/*/app", "ghcr.io/org/app:1", True),
        ("ghcr.io/*/app", "ghcr.io/org/team/app:1", False),
        ("ghcr.io/**/app", "ghcr.io/org/team/app:1", True),
        ("registry.example.com:5000/**", "registry.example.com:5000/x/y:1", True),
        ("registry.example.com:5000/x:*", "registry.example.com:5000/x:1", True),
        ("registry.example.com/**", "registry.example.com.evil.com/x:1", False),
        ("registry.example.com/x:1.0", "registry.example.com/x:1x0", False),
    ],
)
def test_a_pattern_fits_whole_references(pattern: str, reference: str, *, fits: bool) -> None:
    """`*` stays within a segment, `**` crosses them, no `:tag` means any tag, a dot is a dot."""
    assert fits == Pattern(pattern).matches(tagged(reference))


@pytest.mark.parametrize("text", ["", "a b", "x\n", "[a-z]$", "a|b", "(x)", "ä", "a?"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    """Nothing of a regular expression gets through."""
    with pytest.raises(Malformed):
        Pattern(text)


@given(st.text(alphabet="ab*:/.", min_size=1, max_size=20))
def test_a_pattern_without_stars_matches_only_itself(text: str) -> None:
    """A pattern is never an accidental regular expression."""
    reference = tagged("docker.io/a.b/ab:a")
    if "*" not in text and Pattern(text).matches(reference):
        assert text in {"docker.io/a.b/ab:a", "docker.io/a.b/ab"}


def test_the_first_rule_wins_and_the_default_pins() -> None:
    """Order decides; where nothing matches a tag is pinned and kept."""
    rules = [
        TagRule(Pattern("**:latest"), Mode.FOLLOW),
        TagRule(Pattern("docker.io/**"), Mode.REFUSE),
        TagRule(Pattern("**"), on_drift=OnDrift.DENY),
    ]
    modes = [rule_for(tagged(text), rules).mode for text in ("alpine:latest", "alpine:3", "quay.io/x/y:1")]
    assert [Mode.FOLLOW, Mode.REFUSE, Mode.PIN] == modes
    assert (Mode.PIN, OnDrift.KEEP) == (rule_for(tagged("alpine"), []).mode, rule_for(tagged("alpine"), []).on_drift)


@pytest.mark.parametrize("suffix", ["", ".sig", ".att", ".sbom"])
def test_attachment_tags_are_followed_unless_refused(suffix: str) -> None:
    """A growing set is no pin, whatever the rules say of other tags."""
    reference = tagged(f"ghcr.io/org/app:sha256-{'a' * 64}{suffix}")
    assert Mode.FOLLOW is rule_for(reference, [TagRule(Pattern("**"), Mode.PIN)]).mode
    assert Mode.REFUSE is rule_for(reference, [TagRule(Pattern("**"), Mode.REFUSE)]).mode


def test_only_a_rule_about_attachments_says_how_long_they_are_followed() -> None:
    """A time to live that was meant for images would hide signatures for as long."""
    reference = tagged(f"ghcr.io/org/app:sha256-{'a' * 64}.sig")
    hours, seconds = timedelta(hours=6), timedelta(seconds=5)
    images, attachments = (
        TagRule(Pattern("ghcr.io/**"), Mode.FOLLOW, hours),
        TagRule(Pattern("**:sha256-*"), Mode.FOLLOW, seconds),
    )
    assert timedelta(minutes=1) == rule_for(reference, [images]).ttl
    assert seconds == rule_for(reference, [attachments, images]).ttl


@pytest.mark.parametrize("tag", ["sha256-abc", f"sha256-{'a' * 64}.foo", f"x-sha256-{'a' * 64}", f"sha256-{'A' * 64}"])
def test_only_exact_attachment_tags_escape_the_pin(tag: str) -> None:
    """A tag that merely looks like one is pinned as any other (or a publisher could opt out of pinning)."""
    assert Mode.PIN is rule_for(tagged(f"ghcr.io/org/app:{tag}"), []).mode


def test_the_three_verdicts() -> None:
    """Same digest: steady. Another: drifted. Gone: vanished."""
    pinned, other = Digest.of(b"pinned"), Digest.of(b"other")
    assert [Steady(pinned), Drifted(pinned, other), Vanished(pinned)] == [
        judge(pinned, offered) for offered in (pinned, other, None)
    ]
