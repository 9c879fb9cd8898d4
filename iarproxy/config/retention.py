"""The keys of `[[retention]]`: which names may go, and which stay. Nothing goes by itself: `iarproxy pins retain`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from iarproxy.config.values import Duration, Glob
from iarproxy.errors import Malformed
from iarproxy.trust.retention import Action, By, Rule
from iarproxy.trust.versions import Range

_OF_DELETE = ("pinned_age", "unused_for")
_OF_KEEP = ("pinned_within", "used_within", "count", "by")
_KNOWN_FOR = timedelta(days=85)  # uses are forgotten after 90 days, and ages count to the beginning of the day


def _range(value: Any) -> Any:
    try:
        return value if isinstance(value, Range) else Range.parse(str(value))
    except Malformed as error:
        raise ValueError(str(error)) from error


class RetentionSection(BaseModel):
    """A `[[retention]]` section; see `trust.retention.Rule`. `environment`: "default" unless it is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    action: Action
    match: Glob
    environment: str = "default"
    semver: Annotated[Range | None, BeforeValidator(lambda value: value if value is None else _range(value))] = None
    state: tuple[Literal["drifted", "vanished"], ...] | None = Field(None, min_length=1)
    pinned_age: Duration | None = None
    unused_for: Duration | None = None
    pinned_within: Duration | None = None
    used_within: Duration | None = None
    count: int | None = Field(None, ge=1, le=100_000)
    by: By = By.PINNED

    @model_validator(mode="after")
    def _checked(self) -> Self:
        foreign = _OF_KEEP if self.action is Action.DELETE else _OF_DELETE
        wrong = [key for key in foreign if key in self.model_fields_set]
        if wrong:
            other = Action.KEEP if self.action is Action.DELETE else Action.DELETE
            remedy = ", ".join(_OF_DELETE if self.action is Action.DELETE else _OF_KEEP)
            raise ValueError(f'{wrong[0]} belongs to action = "{other}"; beside "{self.action}" write {remedy}')
        if self.action is Action.DELETE and (self.pinned_age, self.unused_for, self.state) == (None, None, None):
            raise ValueError("a rule that deletes needs pinned_age, unused_for or state; write at least one")
        longest = max(self.unused_for or timedelta(0), self.used_within or timedelta(0))
        if longest > _KNOWN_FOR:
            raise ValueError(
                f"uses are known for 90 days; write at most {_KNOWN_FOR.days}d for unused_for and used_within"
            )
        if "by" in self.model_fields_set and self.count is None:
            raise ValueError("by needs count; write both, or neither")
        return self

    def rule(self, number: int) -> Rule:
        """The rule that is the `number`-th section, counted from 1."""
        return Rule(
            self.action,
            self.match,
            self.environment,
            text=f"rule {number} ({self.action} {self.match.text})",
            semver=self.semver,
            states=None if self.state is None else frozenset(self.state),
            pinned_age=self.pinned_age,
            unused_for=self.unused_for,
            pinned_within=self.pinned_within,
            used_within=self.used_within,
            count=self.count,
            by=self.by,
        )

    def spelled(self) -> dict[str, Any]:
        """What is written, for plans."""
        written = {key: getattr(self, key) for key in type(self).model_fields if key in self.model_fields_set}
        return {key: _spelled(value) for key, value in written.items() if value is not None}


def _spelled(value: Any) -> Any:
    match value:
        case timedelta():
            return f"{value.total_seconds():g}s"
        case Range(text=text):
            return text
        case tuple():
            return list(value)
        case int():
            return value
        case _:
            return getattr(value, "text", str(value))
