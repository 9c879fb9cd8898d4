"""Why an upstream is not asked for a while, and the one probe that ends it (rules of `upstream.breaker`)."""

from __future__ import annotations

from iarproxy.upstream.breaker import Breaker, Hold, Passage, Shut


def _breaker(spread: int = 1) -> Breaker:
    return Breaker(spread=spread, jitter=lambda: 1.0)


def _open_it(breaker: Breaker, now: float = 0.0) -> None:
    for _ in range(5):
        assert breaker.admit(now) is Passage.FREE
        breaker.failed(now, Passage.FREE, "no connection")


def test_five_failures_in_a_row_shut_it() -> None:
    """Four do not, nor five with a success between them; then nobody passes for a second."""
    breaker = _breaker()
    for _ in range(4):
        breaker.failed(0.0, Passage.FREE, "x")
    breaker.succeeded()
    assert breaker.is_quiet
    assert [False, False, False, False, True] == [breaker.failed(7.0, Passage.FREE, "no connection") for _ in range(5)]
    assert Shut(0.5) == breaker.admit(7.5)
    assert (7.0, "no connection") == (breaker.since, breaker.reason)


def test_answers_count_less() -> None:
    """Of an upstream that answers every second request with a failure, twenty in a row do not happen."""
    breaker = _breaker()
    shut = [breaker.failed(0.0, Passage.FREE, "it answers 503", silent=False) for _ in range(20)]
    assert [False] * 19 + [True] == shut


def test_exactly_one_probe() -> None:
    """When the rest is over one passes; the others wait for what becomes of it."""
    breaker = _breaker()
    _open_it(breaker)
    assert breaker.admit(1.0) is Passage.PROBE
    assert Shut(1.0) == breaker.admit(1.0)
    breaker.succeeded()
    assert breaker.admit(1.0) is Passage.FREE


def test_the_rest_grows_to_its_bound() -> None:
    """Each probe that fails doubles it, up to half a minute; a success makes it short again."""
    breaker, now, rests = _breaker(), 0.0, []
    _open_it(breaker)
    for _ in range(8):
        assert breaker.until is not None
        rests.append(breaker.until - now)
        now = breaker.until
        breaker.failed(now, passage := _probe(breaker, now), "x")
        assert passage is Passage.PROBE
    assert [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0] == rests
    breaker.succeeded()
    _open_it(breaker, now)
    assert Shut(1.0) == breaker.admit(now)


def test_the_rest_is_spread() -> None:
    """Workers that saw the same failures do not all probe at the same moment."""
    early = Breaker(jitter=lambda: 0.0)
    for _ in range(5):
        early.failed(0.0, Passage.FREE, "x")
    assert Shut(0.5) == early.admit(0.0)


def test_a_probe_that_learned_nothing() -> None:
    """It was cancelled: the next one is the probe, and nothing grew."""
    breaker = _breaker()
    _open_it(breaker)
    breaker.gave_up(_probe(breaker, 1.0))
    assert breaker.admit(1.0) is Passage.PROBE


def test_what_was_under_way_before() -> None:
    """Its failures do not shut the door for longer; its success opens it, for it is a sign of life."""
    breaker = _breaker()
    _open_it(breaker)
    assert not breaker.failed(0.9, Passage.FREE, "x")
    assert Shut(0.5) == breaker.admit(0.5)
    breaker.succeeded()
    assert breaker.admit(0.6) is Passage.FREE


def test_one_bad_subject_is_not_everything() -> None:
    """Failures of one repository alone do not shut what is for all; of two they do, and so does no connection."""
    one = _breaker(spread=2)
    assert not any(one.failed(0.0, Passage.FREE, "500", subject="a/b") for _ in range(50))
    assert one.admit(0.0) is Passage.FREE
    assert one.failed(0.0, Passage.FREE, "500", subject="c/d")
    other = _breaker(spread=2)
    assert [False] * 4 + [True] == [other.failed(0.0, Passage.FREE, "no connection") for _ in range(5)]


def test_few_bad_subjects_do_not_keep_everybody_away() -> None:
    """One that did not fail is let through alone before the time is over; its answer opens the door, its failure costs
    nobody anything; when many have failed, or there was no connection, nobody is.
    """
    breaker = _breaker(spread=2)
    for subject in ("bad/1", "bad/2") * 10:
        breaker.failed(0.0, Passage.FREE, "500", subject=subject)
    assert [Shut(1.0)] * 2 == [breaker.admit(0.0, subject) for subject in ("bad/1", "")]
    assert (Passage.PROBE, Shut(1.0)) == (breaker.admit(0.0, "good"), breaker.admit(0.0, "better"))
    breaker.gave_up(Passage.PROBE)
    for number in range(14):
        assert breaker.admit(0.5, f"new/{number}") is Passage.PROBE
        breaker.failed(0.5, Passage.PROBE, "500", subject=f"new/{number}")
    assert [Shut(0.5)] * 2 == [breaker.admit(0.5, subject) for subject in ("new/0", "new/14")]
    breaker.succeeded()
    breaker.failed(2.0, Passage.FREE, "500", subject="bad/1")
    for _ in range(5):
        breaker.failed(2.0, Passage.FREE, "no connection")
    assert isinstance(breaker.admit(2.0, "good"), Shut)


def test_bodies_that_keep_breaking() -> None:
    """Heads that come do not excuse them; a whole body does."""
    breaker = _breaker()
    for _ in range(4):
        breaker.broke(0.0, "broke off")
        breaker.succeeded()
    breaker.completed()
    assert [False] * 4 + [True] == [breaker.broke(0.0, "broke off") for _ in range(5)]
    assert isinstance(breaker.admit(0.5), Shut)


def test_a_hold_lasts_as_long_as_asked() -> None:
    """Within its bound; then one probe, whose answer decides."""
    hold = Hold()
    assert hold.admit(0.0) is Passage.FREE
    hold.told(0.0, Passage.FREE, 30.0)
    assert Shut(0.5) == hold.admit(29.5)
    assert hold.admit(30.0) is Passage.PROBE
    assert Shut(1.0) == hold.admit(30.0)
    hold.answered(Passage.PROBE)
    assert hold.admit(30.0) is Passage.FREE


def test_a_hostile_hour() -> None:
    """A Retry-After of an hour, told again and again, holds us for a quarter of one; zero is a second."""
    hold = Hold()
    hold.told(0.0, Passage.FREE, 3600.0)
    assert Shut(900.0) == hold.admit(0.0)
    assert hold.admit(900.0) is Passage.PROBE
    zero = Hold()
    zero.told(0.0, Passage.FREE, 0.0)
    assert Shut(1.0) == zero.admit(0.0)


def test_a_429_without_a_time() -> None:
    """Held for a second, then twice as long after each probe that is told the same, up to a minute."""
    hold, now, holds = Hold(), 0.0, []
    hold.told(now, Passage.FREE, None)
    hold.told(now, Passage.FREE, None)  # the second of a herd
    for _ in range(8):
        assert hold.until is not None
        holds.append(hold.until - now)
        now = hold.until
        hold.told(now, _probe(hold, now), None)
    assert [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] == holds
    assert hold.until is not None
    assert _probe(hold, hold.until) is Passage.PROBE
    hold.answered(Passage.PROBE)
    hold.told(now, Passage.FREE, None)
    assert Shut(1.0) == hold.admit(now)


def test_an_answer_from_before_opens_no_hold() -> None:
    """What was asked before the 429 came proves nothing about now."""
    hold = Hold()
    passage = hold.admit(0.0)
    hold.told(0.0, Passage.FREE, 10.0)
    assert isinstance(passage, Passage)
    hold.answered(passage)
    assert isinstance(hold.admit(1.0), Shut)


def test_what_another_worker_was_told() -> None:
    """It holds this one too, within the bound; an end that is past or sooner changes nothing."""
    hold = Hold()
    hold.adopt(100.0, 90.0)
    assert hold.admit(100.0) is Passage.FREE
    hold.adopt(100.0, 120.0)
    hold.adopt(100.0, 110.0)
    assert Shut(20.0) == hold.admit(100.0)
    hold.adopt(100.0, 1e9)
    assert Shut(900.0) == hold.admit(100.0)


def _probe(door: Breaker | Hold, now: float) -> Passage:
    passage = door.admit(now)
    assert isinstance(passage, Passage)
    return passage
