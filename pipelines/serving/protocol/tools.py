"""Functions that a model may call, and the calls in its messages."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from pipelines.serving.protocol.fields import UnicodeText
from pipelines.serving.protocol.options import Loose

Name = Annotated[UnicodeText, Field(min_length=1, max_length=256)]


class Function(Loose):
    """A function that may be called, with the JSON schema of its arguments."""

    name: Name
    description: UnicodeText = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False


class Tool(Loose):
    """A tool of a chat; only functions are known."""

    type: Literal["function"] = "function"
    function: Function

    def as_template_input(self) -> dict[str, Any]:
        """Return the tool in the form that chat templates read."""
        function = self.function.model_dump(exclude={"strict"}, exclude_unset=True)
        return {"type": "function", "function": function}


class NamedFunction(Loose):
    """The name of a function."""

    name: Name


class NamedTool(Loose):
    """A tool that must be called."""

    type: Literal["function"] = "function"
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class CalledFunction(Loose):
    """A call in an earlier answer; ``arguments`` are JSON as the model wrote it."""

    name: Name
    arguments: UnicodeText | dict[str, Any] = ""


class ToolCall(Loose):
    """A call in an earlier answer, with the number that its result refers to."""

    id: UnicodeText = ""
    type: Literal["function"] = "function"
    function: CalledFunction

    def as_template_input(self) -> dict[str, Any]:
        """Return the call in the form that chat templates read: arguments as an object."""
        arguments = _read(self.function.arguments)
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


def _read(arguments: str | dict[str, Any]) -> Any:
    """Return arguments as an object; as text if the model wrote no JSON."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
