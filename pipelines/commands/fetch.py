"""``raymoe fetch``: a real checkpoint and real text, brought without a model hub."""

from typing import Annotated

import typer

from pipelines.screen.terminal import To, say

SMOLLM2_EXAMPLE = "raymoe fetch smollm2 --to models/smollm2"
TEXT_EXAMPLE = "raymoe fetch text --to text --source shakespeare"
CHATS_EXAMPLE = "raymoe fetch chats --to chats"


def smollm2(to: To) -> None:
    """Download SmolLM2-135M-Instruct and write it as a Hugging Face directory."""
    from pipelines.fetching.smollm2 import fetch_smollm2

    say(f"wrote {fetch_smollm2(to, say)}")


def text(
    to: To,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a source of text. Repeatable. An unknown name lists those there are.",
            show_default="the sources that need only pip",
        ),
    ] = None,
) -> None:
    """Download real English text, one directory for each source."""
    from pipelines.fetching.texts import DEFAULT_SOURCES, fetch_texts

    for path in fetch_texts(source or list(DEFAULT_SOURCES), to, say):
        say(f"wrote {path}")


def chats(to: To) -> None:
    """Make conversations of the help and the docstrings that Python ships, to try fine-tuning."""
    from pipelines.fetching.chats import fetch_chats

    say(f"wrote {fetch_chats(to, say)}")
