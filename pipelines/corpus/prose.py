"""Extracts readable text from markup, and prose from readable text."""

import re
import warnings
from collections.abc import Iterator

from bs4 import BeautifulSoup, Tag, XMLParsedAsHTMLWarning
from bs4.element import NavigableString

_DROPPED = re.compile("button|footer|form|head|header|nav|noscript|script|style|svg|template|title")
_CHROME = re.compile(  # classes and roles of what Sphinx and DocBook draw around a page
    "footer|headerlink|navfooter|navheader|navigation|related|search|sphinxsidebar|toc|"
    "toctree-wrapper"
)
_BLOCK = re.compile(
    "address|article|aside|blockquote|body|caption|center|d[dlt]|details|div|fieldset|figcaption|"
    "figure|h[1-6]|hr|li|main|ol|p|section|summary|table|tbody|td|tfoot|th|thead|tr|ul"
)
_BLANK_LINE = re.compile(r"\n\s*\n")


def html_text(markup: bytes) -> str:
    """Return the readable text of a page, with blank lines between blocks.

    Scripts, navigation and the page frames of documentation generators are dropped; preformatted
    blocks keep their lines.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)  # XHTML parses the same
        page = BeautifulSoup(markup, "lxml")
    root = page.find("main") or page.find(role="main") or page.body or page
    return "\n\n".join(_blocks(root)) if isinstance(root, Tag) else ""


def prose(text: str) -> Iterator[str]:
    """Yield the paragraphs that read as sentences, each on one line.

    A paragraph needs 60 characters, of which 85 % are letters or spaces: this rule excludes tables,
    grammars, code and lists of names.
    """
    for block in _BLANK_LINE.split(text):
        paragraph = " ".join(block.split())
        plain = sum(character.isalpha() or character == " " for character in paragraph)
        if len(paragraph) >= 60 and plain >= 0.85 * len(paragraph):
            yield paragraph


def _blocks(root: Tag) -> Iterator[str]:
    """Yield the text of each block in order; text between two blocks is a block too."""
    words: list[str] = []
    for piece in _pieces(root):
        if piece is None:
            block = " ".join("".join(words).split())
            words.clear()
            if block:
                yield block
        elif isinstance(piece, Tag):
            preformatted = piece.get_text().strip("\n")
            if preformatted.strip():
                yield preformatted
        else:
            words.append(piece)


def _pieces(tag: Tag) -> Iterator[str | Tag | None]:
    """Yield inline text unchanged, None at each edge of a block, and complete ``pre`` tags."""
    yield None
    yield from _inside(tag)
    yield None


def _inside(tag: Tag) -> Iterator[str | Tag | None]:
    for child in tag.children:
        if isinstance(child, Tag):
            if child.name == "pre":
                yield from (None, child)
            elif child.name == "br":
                yield " "
            elif not _is_chrome(child):
                yield from _pieces(child) if _BLOCK.fullmatch(child.name) else _inside(child)
        elif type(child) is NavigableString:  # comments and declarations are subclasses
            yield str(child)


def _is_chrome(tag: Tag) -> bool:
    if _DROPPED.fullmatch(tag.name):
        return True
    marks = tag.get_attribute_list("class") + tag.get_attribute_list("role")
    return any(_CHROME.fullmatch(mark) for mark in marks if mark)
