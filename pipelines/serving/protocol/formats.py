"""What form an answer must have: JSON of a schema, a regular expression, a choice, a grammar."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipelines.serving.protocol.fields import UnicodeText
from pipelines.serving.protocol.options import Loose, Options, fault

Kind = Literal["schema", "regex", "choice", "grammar"]

ANY_OBJECT: dict[str, Any] = {"type": "object"}
"""The schema of ``json_object``."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form: of which kind, the schema, expression, choices or grammar in ``value``, and the
    field of the request that asks for it.
    """

    kind: Kind
    value: Any
    param: str


class JsonSchema(Loose):
    """A named schema; ``strict`` changes nothing, since the schema always holds."""

    name: str = ""
    description: str = ""
    schema_: dict[str, Any] | bool = Field(default_factory=lambda: ANY_OBJECT, alias="schema")
    strict: bool = False


class ResponseFormat(Loose):
    """``response_format`` of the OpenAI interface."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_a_schema(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise fault("is missing; give the schema", "json_schema")
        return self

    def form(self) -> Form | None:
        """Return the form that it asks for; None for free text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Form(kind="schema", value=ANY_OBJECT, param="response_format")
        assert self.json_schema is not None
        return Form(kind="schema", value=self.json_schema.schema_, param="response_format")


class StructuredOutputs(Options):
    """``structured_outputs`` as vLLM takes it: one of the forms."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    json_object: bool = False
    regex: UnicodeText | None = None
    choice: Annotated[list[UnicodeText], Field(min_length=1)] | None = None
    grammar: UnicodeText | None = None

    def forms(self) -> list[Form]:
        """Return the forms that are given."""
        schema = self.json_ if self.json_ is not None else ANY_OBJECT if self.json_object else None
        given: list[tuple[Kind, Any]] = [
            ("schema", schema),
            ("regex", self.regex),
            ("choice", self.choice),
            ("grammar", self.grammar),
        ]
        return [
            Form(kind=kind, value=value, param="structured_outputs")
            for kind, value in given
            if value is not None
        ]
