"""DeepSpeed's pickles, opened without letting them run anything.

torch's weights-only unpickler builds tensors and plain values; of classes it builds those on a
list. ``optimizer_state.pt`` names three of DeepSpeed's, whose content nothing here needs: an inert
class stands in for them, so DeepSpeed is neither imported nor trusted. Tensors are mapped, so only
what is looked at is read.
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
    """Stands in for an object whose content is of no use here."""

    def __init__(self, *arguments: Any) -> None:
        """Take and forget what the object was made of."""


def load(path: Path) -> Any:
    """Return what a file holds; CheckpointError where it is missing, damaged or holds code."""
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
    except Exception as error:  # an unpickler that is fed noise raises anything
        raise _damaged(path, _reason(error)) from error


def load_checked(path: Path) -> Any:
    """Return what a file holds, once its bytes are known to be those that torch.save wrote.

    They lie in a zip archive, which keeps a checksum of each record that torch does not look at.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except FileNotFoundError:
        return load(path)
    except Exception as error:  # so does an archive of noise
        raise _damaged(path, _reason(error)) from error
    if record is not None:
        raise _damaged(path, f"{record} has another CRC-32 than when it was saved")
    return load(path)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged, cut short or no file of torch.save: {reason}; copy the checkpoint "
        "again"
    )


def _reason(error: Exception) -> str:
    """Return the line of torch's message that says what was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (telling or lines or [type(error).__name__])[0]
