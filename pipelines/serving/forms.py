"""The grammar of an answer: the form that a request asks for, and the calls that it may hold."""

import json
from typing import Any

from llguidance import regex_to_lark

from pipelines.serving.protocol.formats import Form
from pipelines.serving.protocol.requests import ChatRequest
from pipelines.serving.protocol.tools import NamedTool, Tool
from pipelines.serving.refusals import BadRequest
from pipelines.serving.text.grammar import json_of, literal
from pipelines.serving.tools.style import Style


def form_grammar(form: Form) -> str:
    """Return the grammar of a form."""
    return str(form.value) if form.kind == "grammar" else f"start: {_rule(form)}"


def chat_grammar(request: ChatRequest, style: Style | None) -> str | None:
    """Return the grammar of a chat's answer; None where any text will do."""
    form, tools = request.form, _must_call(request)
    if tools and style is not None:
        return style.grammar(_functions(tools), request.parallel_tool_calls)
    if form is None:
        return None
    if not request.callable or style is None:
        return form_grammar(form)
    if form.kind == "grammar":
        raise BadRequest(
            f"{form.param} does not go together with tools; leave one of them out", form.param
        )
    functions = _functions(request.callable)
    return style.grammar(functions, request.parallel_tool_calls, otherwise=_rule(form))


def _must_call(request: ChatRequest) -> list[Tool]:
    """Return the tools of which one must be called."""
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        return [tool for tool in request.tools if tool.function.name == choice.function.name]
    return request.tools if choice == "required" else []


def _functions(tools: list[Tool]) -> list[tuple[str, dict[str, Any]]]:
    """Return names and schemas; a function without a schema takes any object."""
    return [(tool.function.name, {"type": "object"} | tool.function.parameters) for tool in tools]


def _rule(form: Form) -> str:
    if form.kind == "schema":
        return json_of(_schema(form))
    if form.kind == "regex":
        return f"/{regex_to_lark(form.value)}/"
    return " | ".join(literal(choice) for choice in form.value)


def _schema(form: Form) -> dict[str, Any] | bool:
    """Return a schema, which may be given as a text."""
    if not isinstance(form.value, str):
        return dict(form.value) if isinstance(form.value, dict) else bool(form.value)
    try:
        schema = json.loads(form.value)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{form.param}: the schema is not JSON: {error}", form.param) from None
    if not isinstance(schema, dict | bool):
        raise BadRequest(f"{form.param}: the schema is {schema!r}; give an object", form.param)
    return schema
