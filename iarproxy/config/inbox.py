"""The keys of `[inbox]`: a folder from which bundles are applied as they arrive, and who may have signed them."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from iarproxy.config.values import Duration, HomePath
from iarproxy.oci.routing import DEFAULT


class InboxSettings(BaseModel):
    """`[inbox]`.

    `path`: bundles lie in it, or in folders in it.
    `trust`: files of public keys, each of one signer; `threshold`: so many of them have to vouch; None: all.
    `environment`: whose pins the names become. `prefer`: who wins where a name is pinned otherwise; None: nobody.
    `receipts`: where receipts are written; None: nowhere (`iarproxy bundle receipt` gives them at any time).
    `settle`: for so long a file has not changed that is taken for whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: HomePath
    trust: tuple[HomePath, ...] = Field(min_length=1)
    threshold: int | None = Field(None, ge=1, le=16)
    environment: str = DEFAULT
    prefer: Literal["bundle", "site"] | None = None
    receipts: HomePath | None = None
    settle: Duration = Field(timedelta(seconds=10), le=timedelta(hours=1))

    @model_validator(mode="after")
    def _checked(self) -> Self:
        for name, path in (("path", self.path), ("receipts", self.receipts), *(("trust", it) for it in self.trust)):
            if path is not None and not path.is_absolute():
                raise ValueError(f"{name} must be a whole path")
        if self.threshold is not None and self.threshold > len(self.trust):
            raise ValueError(f"threshold is {self.threshold} of {len(self.trust)} signers in trust; name more files")
        if self.receipts is not None and self.receipts == self.path:
            raise ValueError("receipts is the watched folder itself; name another one")
        return self
