"""The CustomResourceDefinition, generated from the models.

`python -m aligntune.api.crd` prints it; `crds/` holds the committed copy.
"""

import sys
from typing import Any

from aligntune.api.job import NAME_MAX_LENGTH, AlignTuneJobSpec
from aligntune.api.labels import GROUP, KIND, PLURAL, VERSION
from aligntune.api.runtime import DNS_LABEL
from aligntune.api.status import AlignTuneJobStatus
from aligntune.api.yaml import write_yaml
from aligntune.core.config.base import Section

Schema = dict[str, Any]

KEPT = {
    "type", "enum", "format", "minimum", "maximum", "minLength", "maxLength", "pattern",
    "minItems", "maxItems", "minProperties", "maxProperties", "required",
}  # fmt: skip
"""Keywords that a structural schema takes over as they are."""

COLUMNS = (
    ("Backend", "string", ".status.summary.backend"),
    ("Task", "string", ".status.summary.task"),
    ("Phase", "string", ".status.phase"),
    ("Step", "string", ".status.summary.progress"),
    ("Progress", "string", ".status.summary.percent"),
    ("Loss", "string", ".status.summary.loss"),
    ("ETA", "string", ".status.summary.eta"),
    ("Restarts", "integer", ".status.attempts.restarts"),
    ("Age", "date", ".metadata.creationTimestamp"),
)

ACCEPTED_BEFORE = (
    "has(oldSelf.status) && has(oldSelf.status.conditions)"
    " && oldSelf.status.conditions.exists(c, c.type == 'Accepted' && c.status == 'True')"
)
IMMUTABLE_SECTIONS = ("backend", "sft", "rl", "runtime", "storage", "hub")


def _immutable(section: str) -> Schema:
    """A rule at the root: one below an optional section would not see its removal.

    The sections are compared first: nothing has changed in them in nearly every write, which is one
    of a status.
    """
    new, old = f"self.spec.{section}", f"oldSelf.spec.{section}"
    return {
        "rule": f"(has({new}) == has({old}) && (!has({new}) || {new} == {old}))"
        f" || !({ACCEPTED_BEFORE})",
        "message": f"spec.{section} cannot change once the job is accepted:"
        " delete the job and create it anew, or give the new one another name",
        "reason": "FieldValueForbidden",
        "fieldPath": f".spec.{section}",
    }


ROOT_RULES: list[Schema] = [
    *(_immutable(section) for section in IMMUTABLE_SECTIONS),
    {
        "rule": f"size(self.metadata.name) <= {NAME_MAX_LENGTH}"
        f" && self.metadata.name.matches('{DNS_LABEL}')",
        "message": f"metadata.name must be at most {NAME_MAX_LENGTH} lower case letters, digits"
        " and '-': the names of its pods are made from it",
        "reason": "FieldValueInvalid",
    },
]


def structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """A pydantic JSON schema as the structural OpenAPI v3 schema that a CRD takes.

    References are inlined, `null` alternatives become `nullable`, defaults stay in the text only:
    the API server must not write into `spec`, or GitOps tools would see drift.
    """
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[-1]]
        return structural(
            {**target, **{k: v for k, v in schema.items() if k != "$ref"}}, definitions
        )
    if "anyOf" in schema:
        return _alternatives(schema, definitions)

    out: Schema = {k: v for k, v in schema.items() if k in KEPT or k.startswith("x-kubernetes-")}
    out |= _scalar(schema)
    if "description" in schema:
        out["description"] = " ".join(schema["description"].split())
    if "properties" in schema:
        out["properties"] = {
            name: structural(child, definitions) for name, child in schema["properties"].items()
        }
    elif isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = structural(schema["additionalProperties"], definitions)
    elif schema.get("type") == "object":
        # Keys need a schema each: CEL's == passes over those of which it knows none.
        out["additionalProperties"] = {"x-kubernetes-preserve-unknown-fields": True}
    if "items" in schema:
        out["items"] = structural(schema["items"], definitions)
    return out


def _scalar(schema: Schema) -> Schema:
    """What OpenAPI v3.0 spells differently from the JSON schema that pydantic writes."""
    out: Schema = {}
    if "const" in schema:
        out["enum"] = [schema["const"]]
    if "exclusiveMinimum" in schema:
        out |= {"minimum": schema["exclusiveMinimum"], "exclusiveMinimum": True}
    if "exclusiveMaximum" in schema:
        out |= {"maximum": schema["exclusiveMaximum"], "exclusiveMaximum": True}
    if schema.get("type") == "integer":
        out["format"] = "int64"
    return out


def _alternatives(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    branches = [b for b in schema["anyOf"] if b.get("type") != "null"]
    nullable = {"nullable": True} if len(branches) < len(schema["anyOf"]) else {}
    around = {k: v for k, v in schema.items() if k != "anyOf"}
    if len(branches) == 1:
        # A field's own description says more than that of the section it points to.
        return structural({**branches[0], **around}, definitions) | nullable
    if "x-kubernetes-int-or-string" in schema:
        return structural(around, definitions) | nullable
    # A structural schema cannot give a field two types; pydantic decides in the operator.
    return (
        structural(around | {"x-kubernetes-preserve-unknown-fields": True}, definitions) | nullable
    )


def model_schema(model: type[Section]) -> Schema:
    """The structural schema of a whole model."""
    schema = model.model_json_schema(by_alias=True)
    return structural(schema, schema.get("$defs", {}))


def custom_resource_definition() -> Schema:
    """The CRD of AlignTuneJob."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["atj"],
                "categories": ["all", "aligntune"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path}
                        for name, kind, path in COLUMNS
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "Fine-tune or align a language model.",
                            "required": ["spec"],
                            "x-kubernetes-validations": ROOT_RULES,
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": model_schema(AlignTuneJobSpec),
                                "status": model_schema(AlignTuneJobStatus),
                            },
                        }
                    },
                }
            ],
        },
    }


if __name__ == "__main__":
    sys.stdout.write("# Generated from aligntune/api by `make generate`. Do not edit.\n")
    write_yaml([custom_resource_definition()], sys.stdout, width=100)
