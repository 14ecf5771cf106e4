"""Conversations made of text: questions about a document, and its paragraphs as the answers.

They teach a model nothing new. They are for trying a run of fine-tuning on rows whose licence is
known.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from moe.staging import refuse_existing, staged
from pipelines.fetching.texts import SOURCES

_LOG = logging.getLogger(__name__)
_SOURCES = ("python-topics", "python-docstrings")
_MOST_TURNS = 3


def fetch_chats(to: Path, report: Callable[[str], None] = _LOG.info) -> Path:
    """Write a folder of ``chats.jsonl`` for each source of text that Python ships."""
    refuse_existing(to)
    with staged(to) as partial, tempfile.TemporaryDirectory() as scratch:
        for name in _SOURCES:
            harvest = SOURCES[name].harvest(Path(scratch))
            folder = partial / name
            folder.mkdir()
            count = 0
            with (folder / "chats.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                for row in conversations(harvest.documents):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
            (folder / "LICENSE").write_text(harvest.licence_text, encoding="utf-8")
            report(f"{name}: {count:,} conversations out of {harvest.origin}")
    return to


def conversations(documents: Iterable[tuple[str, str]]) -> Iterator[dict[str, object]]:
    """Yield rows of up to three turns for named documents of paragraphs."""
    for name, text in documents:
        paragraphs = text.split("\n\n") if text else []
        for first in range(0, len(paragraphs), _MOST_TURNS):
            messages = []
            for number, paragraph in enumerate(paragraphs[first : first + _MOST_TURNS], first):
                asked = f"What does Python say about {name}?"
                if number:
                    asked = f"What does part {number + 1} of the text on {name} say?"
                messages.append({"role": "user", "content": asked})
                messages.append({"role": "assistant", "content": paragraph})
            yield {"messages": messages}
