"""The one line that each error in a file of settings gets."""

from __future__ import annotations

import difflib
from typing import get_args

from pydantic import BaseModel, ValidationError

# pydantic's words for what a newcomer gets wrong most, in the form of a remedy
_REMEDIES = {
    "int_parsing": "not a whole number; write digits without quotes",
    "int_type": "not a whole number; write digits without quotes",
    "bool_parsing": "neither true nor false; write one of them without quotes",
    "dict_type": 'not a section; write it as a table, such as [store] or [upstreams."ghcr.io"]',
    "model_type": 'not a section; write it as a table, such as [store] or [upstreams."ghcr.io"]',
    "tuple_type": 'not a list; write ["..."]',
    "string_type": 'not a text; write it in quotes ("...")',
    "missing": "missing; add it",
    "too_short": "empty; write at least one",
}


def explain(error: ValidationError, top: type[BaseModel]) -> str:
    """The key, what is wrong with it, and what to write instead; `top`: what was read."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # a key that is missing is mostly one that is misspelled
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    location = [each for each in first["loc"] if not str(each).startswith("function-")]
    key = ".".join(f'"{each}"' if "." in str(each) else str(each) for each in location)
    if first["type"] == "extra_forbidden":
        known = _keys_at(top, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        return f"{key}: unknown key; " + (f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}")
    remedy = _REMEDIES.get(first["type"], "")
    message = remedy or first["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _keys_at(model: type[BaseModel], location: list[int | str]) -> list[str]:
    for step in location:
        field = model.model_fields.get(str(step))
        inner = field.annotation if field else None
        found = [each for each in (inner, *get_args(inner)) if isinstance(each, type) and issubclass(each, BaseModel)]
        model = found[0] if found else model
    return [name for name in model.model_fields if name != "source"]
