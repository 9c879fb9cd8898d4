"""The keys of `[journal]`: how often the journal is signed, with what, and where copies go."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from iarproxy.config.values import Duration, HomePath


class JournalSettings(BaseModel):
    """`[journal]`. `checkpoint_interval`: how often a checkpoint is made where the journal grew; `0s`: never.

    `checkpoint_file`: a line for each checkpoint is appended to it; None: to none.
    `key_file`: of the key that signs; None: `journal.key` beside the ledger.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint_interval: Duration = timedelta(minutes=1)
    checkpoint_file: HomePath | None = None
    key_file: HomePath | None = None

    @model_validator(mode="after")
    def _checked(self) -> Self:
        for name, path in (("checkpoint_file", self.checkpoint_file), ("key_file", self.key_file)):
            if path is not None and not Path(path).is_absolute():
                raise ValueError(f"{name} must be a whole path")
        return self
