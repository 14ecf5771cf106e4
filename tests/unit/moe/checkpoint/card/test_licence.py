"""The licence of a model directory, as the directory says it."""

import json
from pathlib import Path

import pytest

from moe.checkpoint.card.licence import Licence, common, licence_of

APACHE = "                                 Apache License\n                           Version 2.0,"


def directory(path: Path, **files: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / name.replace("_md", ".md").replace("_json", ".json")).write_text(text)
    return path


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, Licence("unknown")),
        ({"README_md": "---\nlicense: mit\n---\n# x"}, Licence("mit", "README.md")),
        (
            {"README_md": "---\nlicense: other\nlicense_name: llama3\nlicense_link: L\n---\n"},
            Licence("other", "README.md", "llama3", "L"),
        ),
        ({"README_md": "---\nlicense: [apache-2.0]\n---\n"}, Licence("apache-2.0", "README.md")),
        ({"config_json": json.dumps({"license": "MIT"})}, Licence("mit", "config.json")),
        ({"LICENSE": APACHE}, Licence("apache-2.0", "LICENSE")),
        ({"LICENSE": "MIT License\n\nCopyright"}, Licence("mit", "LICENSE")),
        (
            {"LICENSE_md": "Terms of our own: no"},
            Licence("other", "LICENSE.md", link="LICENSE.md"),
        ),
        ({"README_md": "---\nlicense: unknown\n---\n", "LICENSE": APACHE}, None),
        ({"README_md": "license: mit\n"}, Licence("unknown")),
        ({"README_md": "---\n{: [\n---\n"}, Licence("unknown")),
        ({"README_md": "---\nlicense: 3\n---\n"}, Licence("unknown")),
        ({"README_md": "---\nlicense: mit\n"}, Licence("unknown")),
        ({"config_json": "no json"}, Licence("unknown")),
    ],
)
def test_it_is_what_a_file_says_and_never_more(
    files: dict[str, str], wanted: Licence | None, tmp_path: Path
) -> None:
    found = licence_of(directory(tmp_path / "model", **files))
    assert found == (wanted or Licence("apache-2.0", "LICENSE"))


def test_of_several_it_is_the_common_one_or_other() -> None:
    mit, apache = Licence("mit", "README.md"), Licence("apache-2.0", "LICENSE")
    assert common([mit, Licence("mit", "LICENSE")]) == mit
    both = common([mit, apache, mit])
    assert (both.identifier, both.name) == ("other", "apache-2.0 and mit")
    assert common([Licence("unknown"), mit]).name == "mit and unknown"
