"""A person's mistakes in a config, one sentence each: where, what is wrong, how to fix it."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

LONGEST_VALUE = 60
UNION_BRANCHES = {"str", "constrained-str", "int", "float", "bool"}
Location = tuple[int | str, ...]


class Mistake(NamedTuple):
    """One mistake; as a string, the sentence that a person reads."""

    location: Location
    """Keys and indices down to the field, as the person wrote them."""
    path: str
    """The same as text: `spec.sft.datasets[0].name`."""
    message: str
    """What is wrong and how to fix it."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def mistake_at(location: Location, message: str) -> Mistake:
    """A mistake that no validation finds."""
    return Mistake(location, _path(location, ""), message)


def mistakes(
    error: ValidationError, model: type[BaseModel], root: str = "", *, unknown: str = ""
) -> Iterator[Mistake]:
    """The mistakes behind a validation error of `model`.

    Args:
        error: The validation error.
        model: Whose fields a misspelt one may have meant.
        root: Put before each path.
        unknown: What to say of a field that `model` lacks, where nobody has misspelt it.
    """
    for detail in error.errors(include_url=False):
        location = _location(detail)
        context = detail.get("ctx", {})
        if detail["type"] == "rule" and context["field"]:
            location += tuple(context["field"].split("."))
        is_unknown = detail["type"] == "extra_forbidden"
        message = unknown if unknown and is_unknown else _message(model, location, detail)
        yield Mistake(location, _path(location, root), message)


def _location(detail: Mapping[str, Any]) -> Location:
    """Where a mistake is, without the branches of unions; an unknown field may be called so."""
    parts = detail["loc"]
    unknown = parts[-1:] if detail["type"] == "extra_forbidden" else ()
    known = parts[: len(parts) - len(unknown)]
    return (*(part for part in known if not _is_union_branch(part)), *unknown)


def _message(model: type[BaseModel], location: Location, detail: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(str(location[-1]), _names(model, location[:-1]), n=1)
            return (
                f"unknown field; did you mean {close[0]!r}?"
                if close
                else "unknown field; remove it"
            )
        case "missing":
            return "required field is missing"
        case "rule":
            return str(detail["ctx"]["message"])
        case _:
            message = detail["msg"].removeprefix("Value error, ")
            message = re.sub(r"^\w+ should", "must", message)
            return f"{message}, got {_shown(detail['input'])}"


def _path(location: Location, root: str) -> str:
    path = root
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _is_union_branch(part: int | str) -> bool:
    """Pydantic puts the branch of a union that it tried, such as `list[...]`, into the location."""
    return isinstance(part, str) and ("[" in part or part in UNION_BRANCHES)


def _names(model: type[BaseModel], location: Location) -> list[str]:
    """The fields known at a place, by the names that manifests use."""
    section: type[BaseModel] | None = model
    for part in location:
        if section is None:
            return []
        if isinstance(part, str):
            field = next((f for f in section.model_fields.values() if f.alias == part), None)
            section = section_in(field.annotation) if field else None
    if section is None:
        return []
    return [field.alias or name for name, field in section.model_fields.items()]


def section_in(annotation: object) -> type[BaseModel] | None:
    """The model inside `Annotated[list[Model], ...] | None` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
