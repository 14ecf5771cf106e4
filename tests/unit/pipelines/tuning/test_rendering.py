"""Which characters, and which tokens, are the answers of a conversation."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from moe.errors import ConfigError, DataError
from pipelines.corpus.manifest import Answers
from pipelines.serving.text.text import Text
from pipelines.tuning.exchange import OddRow, exchange
from pipelines.tuning.reading import _encoded
from pipelines.tuning.rendering import Renderer
from pipelines.tuning.templates import NAMED, Template, template
from tests import chats, vocabularies
from tests.chats import turns

CONTENT = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() != "")

PLAIN = st.text(st.characters(max_codepoint=126), min_size=1, max_size=20).filter(
    lambda text: text.strip() != ""
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return Text.open(chats.directory(tmp_path_factory.mktemp("chat")))


def renderer(text: Text, source: str, answers: Answers = "all") -> Renderer:
    return Renderer(text, Template("test", source, source), answers)


def parts(found: Renderer, *contents: str, system: str | None = None) -> list[str]:
    """Return the texts of the answers that count."""
    rendered = found.render(exchange(turns(*contents, system=system)))
    return [rendered.text[start:stop] for start, stop in rendered.answers]


@given(st.lists(CONTENT, min_size=2, max_size=6).filter(lambda each: len(each) % 2 == 0))
def test_marks_and_beginnings_say_the_same(text: Text, contents: list[str]) -> None:
    given_ = exchange(turns(*contents))
    by_marks = renderer(text, chats.MARKED).render(given_)
    assert renderer(text, vocabularies.TEMPLATE).render(given_) == by_marks
    assert [by_marks.text[a:b] for a, b in by_marks.answers] == [
        f"{each}</s>" for each in contents[1::2]
    ]


@given(st.lists(PLAIN, min_size=2, max_size=4).filter(lambda each: len(each) % 2 == 0))
def test_tokens_are_those_that_transformers_marks(text: Text, contents: list[str]) -> None:
    messages = turns(*contents)
    oracle = text._tokenizer.apply_chat_template(
        messages, chat_template=chats.MARKED, return_dict=True, return_assistant_tokens_mask=True
    )
    rendered = renderer(text, chats.MARKED).render(exchange(messages))
    (spelled,) = text.spelled([rendered.text])
    found = _encoded(spelled, rendered)
    assert found.tokens.tolist() == oracle["input_ids"]
    assert found.counted is not None
    assert found.counted.tolist() == oracle["assistant_masks"]


def test_all_tokens_of_a_character_count(text: Text) -> None:
    """Of the last character, transformers marks the first token alone."""
    rendered = renderer(text, NAMED["plain"].replace("{{ eos_token }}", "")).render(
        exchange(turns("q", "\u6a5f"))
    )
    (spelled,) = text.spelled([rendered.text])
    assert len(spelled.tokens) > 2
    assert _encoded(spelled, rendered).predictions == len(spelled.tokens) - 1


def test_the_last_answer_alone(text: Text) -> None:
    for source in (chats.MARKED, vocabularies.TEMPLATE):
        last = renderer(text, source, "last")
        assert parts(last, "q", "a", "r", "b", system="s") == ["b</s>"]
        assert parts(last, "q", "a", "r", "b", "and then?") == ["b</s>"]


def test_an_answer_that_does_not_count_is_passed_over(text: Text) -> None:
    messages = turns("q", "a", "r", "b")
    messages[1]["weight"] = 0
    for source in (chats.MARKED, vocabularies.TEMPLATE):
        rendered = renderer(text, source).render(exchange(messages))
        assert [rendered.text[a:b] for a, b in rendered.answers] == ["b</s>"]


def test_a_template_that_rewrites_turns_is_refused(text: Text) -> None:
    with pytest.raises(DataError, match=r"writes earlier messages differently .* --answers last"):
        renderer(text, chats.WITHOUT_REASONS)
    last = renderer(text, chats.WITHOUT_REASONS, "last")
    assert parts(last, "q", "long", "r", "b") == ["b</s>"]
    never = "{% for m in messages %}{{ messages | length }}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match=r"are not known; give --template with a file that has \{%"):
        renderer(text, never, "last")


def test_what_a_template_refuses_is_an_odd_row(text: Text) -> None:
    found = renderer(text, vocabularies.TEMPLATE)
    with pytest.raises(OddRow, match="refuses it: a conversation begins with the user"):
        found.render(exchange(turns("q", "a")[1:]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "chatml",
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
            "<|im_start|>assistant\n[a<|im_end|>]\n<|im_start|>user\nr<|im_end|>\n"
            "<|im_start|>assistant\n[b<|im_end|>]\n",
        ),
        (
            "deepseek",
            "s\n### Instruction:\nq\n### Response:\n[a\n<|EOT|></s>]\n"
            "### Instruction:\nr\n### Response:\n[b\n<|EOT|></s>]\n",
        ),
        (
            "alpaca",
            "s\n\n### Instruction:\nq\n\n### Response:\n[a</s>]\n\n"
            "### Instruction:\nr\n\n### Response:\n[b</s>]\n\n",
        ),
        ("plain", "sq[a</s>]r[b</s>]"),
    ],
)
def test_templates_by_name(text: Text, name: str, expected: str) -> None:
    found = Renderer(text, template(name, text, Path("model")), "all")
    rendered = found.render(exchange(turns("q", "a", "r", "b", system="s")))
    marked = rendered.text
    for start, stop in reversed(rendered.answers):
        marked = f"{marked[:start]}[{marked[start:stop]}]{marked[stop:]}"
    assert marked == expected


def test_a_prompt_ends_where_the_answer_begins(text: Text) -> None:
    """What a server would ask with is the beginning of what was trained on."""
    for name, source in NAMED.items():
        whole = renderer(text, source).render(exchange(turns("q", "a")))
        asked = text.transcript(source, turns("q"), answering=True).text
        assert whole.text[: whole.answers[0][0]] == asked, name


def test_a_model_without_a_template_and_files_that_are_none(tmp_path: Path) -> None:
    model = chats.directory(tmp_path / "model", None)
    bare = Text.open(model)
    with pytest.raises(ConfigError, match="has no chat template; give --template with a file"):
        template("model", bare, model)
    with pytest.raises(ConfigError, match="--template nowhere is no file that can be read"):
        template("nowhere", bare, model)
    (tmp_path / "own.jinja").write_text(chats.MARKED)
    found = template(str(tmp_path / "own.jinja"), bare, model)
    assert (found.name, found.source) == ("own.jinja", chats.MARKED)
    assert AutoTokenizer.from_pretrained(model).chat_template is None
