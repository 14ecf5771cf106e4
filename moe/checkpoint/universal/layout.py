"""The files of a universal checkpoint, as DeepSpeed 0.19.8 writes and reads them.

::

    latest_universal                         names the directory beside it
    global_step10_universal/
      zero/
        PARAMETER/                           a directory for each parameter of the module
          fp32.pt exp_avg.pt exp_avg_sq.pt   {"param": tensor}; from ZeRO-3 the tensor alone, flat
          step.pt                            not from ZeRO-3, nor from optimisers that keep none
        optimizer_state.pt                   what parameters have in common
      mp_rank_00_model_states.pt             steps and ranks; ZeRO-3: zero_pp_rank_0_mp_rank_00_...

Parameters have the names of ``module.named_parameters()``; tied parameters are stored once.
``optimizer_state.pt`` is written after the parameters, and the model states last, so these files
mark a complete checkpoint.
"""

from pathlib import Path

from moe.errors import CheckpointError

VERSION = "0.19.8"
LATEST = "latest_universal"
ZERO = "zero"
OPTIMIZER_STATE = "optimizer_state.pt"
MODEL_STATES = "mp_rank_00_model_states.pt"
ZERO3_MODEL_STATES = "zero_pp_rank_0_mp_rank_00_model_states.pt"
WEIGHT = "fp32"
MOMENTS = ("exp_avg", "exp_avg_sq")
STATES = (WEIGHT, *MOMENTS)
STEP = "step"
PARAM = "param"


def tag_directory(path: Path) -> Path:
    """Return the directory with the tensors: the given one, or the latest checkpoint that it
    names.
    """
    if not path.is_dir():
        raise CheckpointError(f"no universal checkpoint at {path}: there is no such directory")
    if (path / ZERO).is_dir():
        return path
    if not (path / LATEST).is_file():
        raise CheckpointError(
            f"{path} is no universal checkpoint: it has neither a {ZERO} directory nor a {LATEST} "
            "file; make one with python -m deepspeed.checkpoint.ds_to_universal"
        )
    tag = (path / LATEST).read_text(encoding="utf-8").strip()
    if not tag or not (path / tag / ZERO).is_dir():
        raise CheckpointError(
            f"{path / LATEST} names {tag!r}, which has no {ZERO} directory; copy the checkpoint "
            "again, or give the directory that has one"
        )
    return path / tag


def check_whole(tag: Path) -> None:
    """Raise CheckpointError if the writing of a checkpoint was interrupted."""
    missing = [
        name
        for name, found in (
            (f"{ZERO}/{OPTIMIZER_STATE}", (tag / ZERO / OPTIMIZER_STATE).is_file()),
            ("*_model_states.pt", any(tag.glob("*_model_states.pt"))),
        )
        if not found
    ]
    if missing:
        raise CheckpointError(
            f"{tag} lacks {' and '.join(missing)}, which are written last: the universal "
            "checkpoint is incomplete; run ds_to_universal again into an empty directory, or copy "
            "it whole"
        )
