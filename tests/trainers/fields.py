"""The fields that a config can have."""

from collections.abc import Iterator

from pydantic import BaseModel

from aligntune.core.config.errors import section_in


def fields(section: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every field that a config can have, by its path."""
    for name, field in section.model_fields.items():
        below = section_in(field.annotation)
        yield from fields(below, f"{path}{name}.") if below else [f"{path}{name}"]
