"""What is withheld from a tag before its first pin: how long a worker remembers it, and what clients are told.

Rule 1: a worker that knows what is withheld asks neither upstream nor the ledger, however many clients come. It looks
        again after `_AGAIN`, when a cool-down is over, and when any process changed the tag: an approval counts within
        a second (the pin set forgets what it withheld).
Rule 2: a refusal names the digest, until when it is refused, and the command that lets it in.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_never

from iarproxy.errors import Denied
from iarproxy.ledger import DEFAULT, Withheld
from iarproxy.mirror.serving.refusing import refused_by_policy
from iarproxy.oci import Digest
from iarproxy.trust import RefusalForm
from iarproxy.trust.admission import AwaitsApproval, CoolingDown, NotSeeded, SeedMismatch
from iarproxy.trust.environments import env_option

_AGAIN = timedelta(minutes=5)


def is_withheld(withheld: Withheld, now: datetime) -> bool:
    """Whether that is still known to be so at `now`; else upstream is asked again."""
    if is_over(withheld, now):
        return False
    return abs(now - withheld.offered_at) < _AGAIN  # a clock that was ahead makes no knowledge that lasts for years


def is_over(withheld: Withheld, now: datetime) -> bool:
    """Whether it was a cool-down, which is over now: the next pull finds out whether upstream still offers it."""
    return isinstance(withheld.why, CoolingDown) and withheld.why.until <= now


def told(withheld: Withheld) -> str:
    """Why it is withheld, in a few words."""
    match withheld.why:
        case CoolingDown(until):
            return f"cools down until {_moment(until)}"
        case AwaitsApproval(why):
            return f"awaits approval: {why}"
        case SeedMismatch(expected):
            return f"is not what is expected: {expected}"
        case NotSeeded():
            return "is in no lock file"
        case _:
            assert_never(withheld.why)


def refused_as_withheld(form: RefusalForm, withheld: Withheld) -> Denied:
    """The refusal of a tag from which content is withheld."""
    offered, reference = withheld.descriptor.digest, withheld.name.reference
    remedy = approval(withheld, offered)
    facts: dict[str, str | None] = {"digest": str(offered), "remedy": remedy}
    facts["environment"] = None if withheld.name.environment == DEFAULT else withheld.name.environment
    match withheld.why:
        case CoolingDown(until):
            facts |= {"until": _moment(until)}
            text = f"is not served before {_moment(until)}: {offered} was first seen too short a time ago; `{remedy}`"
            return refused_by_policy(form, "cooling-down", f"{reference} {text} lets it in now", **facts)
        case AwaitsApproval(why):
            text = f"awaits approval: {why}; upstream offers {offered}; `{remedy}` lets it in"
            return refused_by_policy(form, "quarantined", f"{reference} {text}", **facts)
        case SeedMismatch(expected):
            facts |= {"expected": str(expected)}
            text = f"is expected to be {expected}, and upstream offers {offered}; `{approval(withheld, expected)}`"
            text += f" pins what is expected, and `{remedy}` what is offered"
            return refused_by_policy(form, "seed-mismatch", f"{reference} {text}", **facts)
        case NotSeeded():
            text = f"is in no lock file, and its tag rule admits nothing else; upstream offers {offered};"
            text += (
                f" `iarproxy lock import FILE --seeds{env_option(withheld.name.environment)}` or `{remedy}` lets it in"
            )
            return refused_by_policy(form, "quarantined", f"{reference} {text}", **facts)
        case _:
            assert_never(withheld.why)


def approval(withheld: Withheld, digest: Digest) -> str:
    """The command that pins the tag to `digest`."""
    where = env_option(withheld.name.environment)
    return f"iarproxy pins approve {withheld.name.reference} --digest {digest}{where} --reason TEXT"


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
