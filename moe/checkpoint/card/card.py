"""Writes the README of a model directory: where the weights come from and how they are loaded.

The front matter is what the Hugging Face hub reads; its key ``raymoe`` has the steps since the base
model, so that each conversion adds one to those of its source. What is not known is not said:
licence, text and losses stand there as far as a file or a measurement has them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moe import __version__
from moe.checkpoint.card.body import THIS, About, Measured, body
from moe.checkpoint.card.front_matter import README, front_matter, with_front_matter
from moe.checkpoint.card.licence import UNKNOWN, Licence, common, licence_of
from moe.checkpoint.card.steps import KEY, Made, steps_of
from moe.config.json_file import read_json
from moe.config.model import ModelConfig
from moe.errors import CheckpointError
from moe.storage import Location, copy_file, write_text

BASE_README = "README.base.md"
"""The README of the base model, as its authors wrote it."""
CARD = (README, BASE_README)
"""What people may edit: no reader of weights depends on it, and no manifest has its hash."""


def write_card(
    directory: Location,
    sources: Sequence[Path],
    config: ModelConfig,
    made: Made,
    measured: Sequence[Measured] = (),
) -> None:
    """Write the README of a directory whose other small files are there already.

    ``sources`` are the model directories it was made from, the one that it takes after first. What
    the authors of that one's base wrote is copied beside it. Equal conversions write equal cards,
    wherever to.
    """
    before = front_matter(sources[0]) if sources else {}
    licences = [licence_of(source) for source in sources] or [Licence(UNKNOWN)]
    bases = list(dict.fromkeys(base for source in sources for base in _bases(source)))
    earlier = steps_of(sources[0]) if sources else []
    steps = [*earlier, made.table(sources)]
    name = ", ".join([*(bases or [config.family]), *(str(step.get("method")) for step in steps)])
    kept = _keep_readme(sources, directory)
    licence = common(licences)
    table = {
        **licence.table,
        **({"base_model": bases[0] if len(bases) == 1 else bases} if bases else {}),
        **({"language": before["language"]} if before.get("language") else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": [KEY, *(["mixture-of-experts"] if config.moe is not None else []), config.family],
        **_model_index(name, measured),
        KEY: {"version": __version__, "steps": steps},
    }
    about = About(
        name,
        config,
        licence,
        bases,
        steps,
        measured,
        kept=BASE_README if kept else "",
        code="auto_map" in read_json(directory / "config.json"),
    )
    write_text(directory / README, with_front_matter(table, body(about)))


def _bases(source: Path) -> list[str]:
    """Return the base models of a directory: those that its card names, if raymoe wrote it; else
    what it is itself.
    """
    table = front_matter(source)
    if KEY in table:
        told = table.get("base_model", [])
        return [str(each) for each in (told if isinstance(told, list) else [told])]
    try:
        named = read_json(source / "config.json").get("_name_or_path")
    except CheckpointError:
        named = None
    if isinstance(named, str) and named.count("/") == 1 and not named.startswith((".", "/", "~")):
        return [named]
    return [source.resolve().name]


def _keep_readme(sources: Sequence[Path], directory: Location) -> bool:
    """Copy what the authors of the base model wrote; return whether there was something."""
    if not sources:
        return False
    ours = KEY in front_matter(sources[0])
    kept = sources[0] / (BASE_README if ours else README)
    if not kept.is_file():
        return False
    copy_file(kept, directory / BASE_README)
    return True


def _model_index(name: str, measured: Sequence[Measured]) -> dict[str, Any]:
    """Return the losses of this model in the form in which the hub shows them."""
    own = [each for each in measured if each.what == THIS]
    if not own:
        return {}
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": each.text, "type": each.text},
            "metrics": [{"type": "loss", "name": "nats per token", "value": each.value}],
        }
        for each in own
    ]
    return {"model-index": [{"name": name, "results": results}]}
