"""Errors for a directory whose tensors differ from its ``config.json``."""

from collections.abc import Collection

from moe.config.tensors import EMBEDDING, HEAD
from moe.errors import CheckpointError
from moe.storage import Location

_WRAPPERS = {
    "_orig_mod.": "which torch.compile adds; save the module inside it (model._orig_mod)",
    "module.": "which DistributedDataParallel adds; save the module inside it (model.module)",
    "base_model.model.": "which peft adds; merge the adapter (merge_and_unload) and save the "
    "result",
}
_ANOTHER_FORM = (
    "they are in a form that raymoe does not read, or of another model; load the directory with "
    "transformers, check that it reports no missing and no unexpected tensors, and write it again "
    "with save_pretrained"
)


def check_names(path: Location, expected: Collection[str], found: Collection[str]) -> None:
    """Raise CheckpointError unless the files of a directory hold exactly the expected tensors."""
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    if missing and (wrapped := _wrapper(found)) is not None:
        raise CheckpointError(
            f"{path} holds its tensors under names that begin with {wrapped}, "
            f"{_WRAPPERS.get(wrapped, 'as part of another model; save the language model alone')} "
            "with save_pretrained, or rename them without it"
        )
    if missing == [HEAD] and not extra:
        raise CheckpointError(
            f"{path} lacks {HEAD}, which config.json does not tie to the embedding: the model was "
            "saved without its head (AutoModel in place of AutoModelForCausalLM), or it is "
            "incomplete; save it with its head, or copy it again"
        )
    if missing and extra:
        raise CheckpointError(
            f"{path} lacks {len(missing)} tensors, the first is {missing[0]}, and holds "
            f"{len(extra)} that its config.json does not explain, the first is {extra[0]}; "
            f"{_ANOTHER_FORM}"
        )
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} tensors, the first is {missing[0]}; "
            "the model is incomplete, copy it again"
        )
    if any(".lora_" in name for name in extra):
        raise CheckpointError(
            f"{path} holds {len(extra)} tensors of an adapter beside the model, the first is "
            f"{extra[0]}; merge it with peft (merge_and_unload, then save_pretrained)"
        )
    if extra:
        raise CheckpointError(
            f"{path} holds {len(extra)} tensors its config.json does not explain, the first is "
            f"{extra[0]}; the model would differ from the saved model"
        )


def _wrapper(found: Collection[str]) -> str | None:
    """Return the prefix before the names of a complete model; None if there is none."""
    for name in found:
        prefix, embedding, rest = name.partition(EMBEDDING)
        if prefix and embedding and not rest:
            return prefix
    return None
