"""What LangChain makes of the server at an address: answers, streams, forms, tools."""

import sys
from collections.abc import Iterator

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field


@tool
def clock(summer: bool) -> str:
    """Tell the time."""
    return "noon" if summer else "one"


class Animal(BaseModel):
    """An animal."""

    legs: int = Field(ge=0, le=9)
    tame: bool


def models(url: str) -> Iterator[ChatOpenAI]:
    """Yield the model over chats and over responses."""
    for responses in (False, True):
        yield ChatOpenAI(
            base_url=f"{url}/v1",
            api_key="-",
            model="tiny",
            temperature=0,
            max_tokens=400,
            use_responses_api=responses,
        )


def talk(model: ChatOpenAI) -> None:
    """Ask for one answer, and have it streamed."""
    streamed = list(model.stream("the dog", max_tokens=8))
    whole = model.invoke("the dog", max_tokens=8)
    assert whole.text == "".join(chunk.text for chunk in streamed)


def fill_forms(model: ChatOpenAI) -> None:
    """Ask for an object, by a schema and by a call."""
    for method in ("json_schema", "function_calling"):
        found = model.with_structured_output(Animal, method=method).invoke("the")
        assert isinstance(found, Animal), found


def use_tools(model: ChatOpenAI) -> None:
    """Have a tool called, and go on with its result."""
    forced = model.bind_tools([clock], tool_choice="any", parallel_tool_calls=False)
    asked = forced.invoke("the")
    (call,) = asked.tool_calls
    assert call["name"] == "clock"
    assert call["args"].keys() == {"summer"}
    said: list[HumanMessage | AIMessage | ToolMessage] = [HumanMessage("the"), asked]
    said.append(ToolMessage(clock.invoke(call["args"]), tool_call_id=call["id"]))
    assert model.bind_tools([clock]).invoke(said, max_tokens=8).text


def main(url: str) -> None:
    """Try everything."""
    for model in models(url):
        talk(model)
        fill_forms(model)
        use_tools(model)
    plain = OpenAI(base_url=f"{url}/v1", api_key="-", model="tiny", max_tokens=5, n=2, best_of=3)
    assert [len(each) for each in plain.generate(["the", "a"]).generations] == [2, 2]


if __name__ == "__main__":
    main(sys.argv[1])
