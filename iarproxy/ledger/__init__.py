"""The ledger: pins, drift states, links, the journal, and uses. The only room that speaks SQL.

Rule 1: a tag's pin changes by a person's act only, and the schema enforces it (design invariants 3 and 4).
Rule 2: a ledger that is missing, old, foreign or damaged is refused, tag by tag where that is possible; nothing that
        cannot be read is ever taken for "not pinned".
Rule 3: the journal is kept twice, in the database and in a file beside it, and either can make the other again.
Rule 4: what was served to whom lies in a file of its own, which pins never wait for and which may be lost.
"""

from iarproxy.ledger.admission import Withheld
from iarproxy.ledger.ledger import Ledger
from iarproxy.ledger.pin_set import PinSet
from iarproxy.ledger.recalls import Recall, RecallOutcome, Recalls
from iarproxy.ledger.recovery import backup, rebuild, restore
from iarproxy.ledger.seeds import Seed, Seeds
from iarproxy.ledger.usage.uses_file import KEPT, Uses
from iarproxy.ledger.values import (
    Acknowledged,
    Change,
    Damage,
    DriftState,
    Event,
    EventKind,
    Name,
    NotUsed,
    Pin,
    RecoveryReport,
    Unpinned,
    Use,
    Used,
    UseSummary,
    UsesUnreadable,
    VerifyReport,
)
from iarproxy.oci.routing import DEFAULT

__all__ = [
    "DEFAULT",
    "KEPT",
    "Acknowledged",
    "Change",
    "Damage",
    "DriftState",
    "Event",
    "EventKind",
    "Ledger",
    "Name",
    "NotUsed",
    "Pin",
    "PinSet",
    "Recall",
    "RecallOutcome",
    "Recalls",
    "RecoveryReport",
    "Seed",
    "Seeds",
    "Unpinned",
    "Use",
    "UseSummary",
    "Used",
    "Uses",
    "UsesUnreadable",
    "VerifyReport",
    "Withheld",
    "backup",
    "rebuild",
    "restore",
]
