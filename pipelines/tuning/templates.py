"""Chat templates by name: a model's own, a file, and the plain forms of instruction data.

The form of DeepSeek is that of the fine-tuning script of DeepSeek-MoE: one sentence, which is the
system message here, ``### Instruction:``, the instruction, ``### Response:``, the answer, and
``<|EOT|>`` on a line of its own. The end token of the model follows, for that is where a server
stops; the script leaves it out.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moe.errors import ConfigError
from pipelines.serving.text.text import Text

OWN = "model"

_ANSWER = "{% generation %}{{ message.content }}END{{ eos_token }}{% endgeneration %}"

NAMED: Mapping[str, str] = {
    "chatml": (
        "{% for message in messages %}"
        "<|im_start|>{{ message.role }}\n"
        "{% if message.role == 'assistant' %}"
        "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ message.content }}<|im_end|>\n{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "deepseek": (
        "{% for message in messages %}"
        "{% if message.role == 'system' %}{{ message.content }}\n"
        "{% elif message.role == 'user' %}### Instruction:\n{{ message.content | trim }}\n"
        "### Response:\n"
        "{% elif message.role == 'assistant' %}"
        + _ANSWER.replace("END", "\n<|EOT|>")
        + "{{ '\n' }}"
        "{% else %}{{ raise_exception('the deepseek form has no tools') }}{% endif %}"
        "{% endfor %}"
    ),
    "alpaca": (
        "{% for message in messages %}"
        "{% if message.role == 'system' %}{{ message.content }}\n\n"
        "{% elif message.role == 'user' %}### Instruction:\n{{ message.content | trim }}\n\n"
        "### Response:\n"
        "{% elif message.role == 'assistant' %}" + _ANSWER.replace("END", "") + "{{ '\n\n' }}"
        "{% else %}{{ raise_exception('the alpaca form has no tools') }}{% endif %}"
        "{% endfor %}"
    ),
    "plain": (
        "{% for message in messages %}"
        "{% if message.role == 'assistant' %}"
        + _ANSWER.replace("END", "")
        + "{% else %}{{ message.content }}{% endif %}"
        "{% endfor %}"
    ),
}
"""Sources by name. ``plain`` writes texts one after the other, as they are. A line end right after
a block is written as an expression: templates are read without it.
"""


@dataclass(frozen=True, slots=True)
class Template:
    """The source of a template; ``with_tools`` is that for conversations with tools."""

    name: str
    source: str
    with_tools: str

    @property
    def sha256(self) -> str:
        """The hash of the sources."""
        both = dict.fromkeys((self.source, self.with_tools))
        return hashlib.sha256("\0".join(both).encode()).hexdigest()


def template(asked: str, text: Text, model: Path) -> Template:
    """Return a template by its name or the path of its file."""
    if asked == OWN:
        own = text.own_template()
        if own is None:
            raise ConfigError(
                f"{model} has no chat template; give --template with a file of one, or one of "
                f"{', '.join(NAMED)}"
            )
        return Template(asked, own, text.own_template(tools=True) or own)
    source = NAMED.get(asked) or _file(asked)
    return Template(asked if asked in NAMED else Path(asked).name, source, source)


def _file(asked: str) -> str:
    try:
        return Path(asked).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--template {asked} is no file that can be read and none of {OWN}, "
            f"{', '.join(NAMED)}: {error}"
        ) from error
