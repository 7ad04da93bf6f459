"""The base of every section of a config, and what a section needs to state its rules once."""

import json
from functools import lru_cache
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

EXACT = 2**53
"""Up to here a float tells every integer from the next."""


LONGEST_REMEMBERED = 4096
"""Characters of a document that is validated once: 2,048 of them take 100 MiB at the most."""


class Section(BaseModel):
    """A closed, immutable part of a config.

    Python spells a field in snake_case, manifests and files in camelCase. The docstring under a
    field is its description in the CRD, in `kubectl explain` and in the reference page.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @classmethod
    def parse(cls, document: object) -> Self:
        """Validates what a YAML or JSON document held, as strictly as the API server would.

        Python callers may pass 5 for 5.0 or "ddp" for an enum; in a document `"5"` is no number,
        but 5.0 is the integer 5, and a field has its camelCase name alone.

        Raises:
            pydantic.ValidationError: `errors.mistakes` makes sentences of it.
        """
        try:
            text = json.dumps(_as_json(document), default=str)
        except RecursionError:
            mistake: InitErrorDetails = {"type": rule_error(TOO_DEEP), "input": None}
            raise ValidationError.from_exception_data(cls.__name__, [mistake]) from None
        if len(text) > LONGEST_REMEMBERED:
            return cls.model_validate_json(text, strict=True, by_name=False)
        section: Self = _remembered(cls, text)
        return section


@lru_cache(maxsize=2048)
def _remembered(section: type[Section], text: str) -> Any:  # noqa: ANN401 - a section of that type
    """Sections are immutable, and an operator reads each again at every step of a job."""
    return section.model_validate_json(text, strict=True, by_name=False)


def plain(document: object) -> Any:  # noqa: ANN401 - as JSON is
    """What a YAML or JSON document held, in the words of JSON."""
    return json.loads(json.dumps(_as_json(document), default=str))


def _as_json(value: object) -> object:
    """A document with whole numbers as integers and keys as strings, as JSON has them."""
    match value:
        case dict():
            return {str(key): _as_json(child) for key, child in value.items()}
        case list():
            return [_as_json(child) for child in value]
        case float() if value.is_integer() and abs(value) <= EXACT:
            return int(value)
        case _:
            return value


class Rule(NamedTuple):
    """A rule over several fields, stated once for pydantic and for the API server (CEL)."""

    cel: str
    """The expression that the API server evaluates; `self` is the section."""
    message: str
    """The sentence that a person reads, from either validator."""
    field: str = ""
    """The camelCase field below the section that is to blame, with dots on the way to a deeper one;
    empty for the section itself."""


TOO_DEEP = Rule("", "nested too deeply")


def cel_rules(*rules: Rule) -> dict[str, Any]:
    """The JSON-schema extra that carries `rules` into the CRD."""
    return {
        "x-kubernetes-validations": [
            {"rule": r.cel, "message": r.message, "reason": "FieldValueInvalid"}
            | ({"fieldPath": f".{r.field}"} if r.field else {})
            for r in rules
        ]
    }


def rule_error(rule: Rule) -> PydanticCustomError:
    """The error that a validator raises for a broken `rule`; it names the field to blame."""
    return PydanticCustomError("rule", "{message}", {"message": rule.message, "field": rule.field})
