"""The fields that a config can have."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel


def fields(section: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every field that a config can have, by its path."""
    for name, field in section.model_fields.items():
        below = _section_in(field.annotation)
        yield from fields(below, f"{path}{name}.") if below else [f"{path}{name}"]


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)
