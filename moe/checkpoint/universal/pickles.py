"""Opens DeepSpeed's pickles without running code from them.

torch's weights-only unpickler builds tensors, plain values and classes on a list.
``optimizer_state.pt`` names three classes of DeepSpeed whose content is not needed here: an inert
class replaces them, so DeepSpeed is neither imported nor trusted. Tensors are memory-mapped, so
only used bytes are read.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from moe.errors import CheckpointError

_IGNORED = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
)


class Ignored:
    """Replaces an object whose content is not needed."""

    def __init__(self, *arguments: Any) -> None:
        """Accept and ignore the content of the object."""


def load(path: Path) -> Any:
    """Return the content of a file; CheckpointError if it is missing, damaged or contains code."""
    stand_ins: list[Any] = [(Ignored, name) for name in _IGNORED]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; copy the checkpoint again") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, which would run code to be opened, "
            f"and raymoe opens none; save it again without: {_reason(error)}"
        ) from error
    except Exception as error:  # On random bytes an unpickler may raise any exception.
        raise _damaged(path, _reason(error)) from error


def load_checked(path: Path) -> Any:
    """Return the content of a file after checking that its bytes are unchanged since torch.save.

    The file is a zip archive with a checksum of each record; torch does not check it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except FileNotFoundError:
        return load(path)
    except Exception as error:  # So does an archive of random bytes.
        raise _damaged(path, _reason(error)) from error
    if record is not None:
        raise _damaged(path, f"{record} has a different CRC-32 than when it was saved")
    return load(path)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged, cut short or no file of torch.save: {reason}; copy the checkpoint "
        "again"
    )


def _reason(error: Exception) -> str:
    """Return the line of torch's message that describes the fault."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (telling or lines or [type(error).__name__])[0]
