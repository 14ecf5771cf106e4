"""Universal checkpoints in the two forms that DeepSpeed's converter leaves, made without it."""

from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor

Form = Literal["zero-1", "zero-3"]


def moment(name: str, kind: str, like: Tensor) -> Tensor:
    """Return a moment that only this parameter has."""
    generator = torch.Generator().manual_seed(crc32(f"{name} {kind}".encode()))
    return torch.rand(like.shape, generator=generator)


def universal(model: Any, to: Path, form: Form = "zero-1", step: int = 7) -> Path:
    """Write what ds_to_universal makes of a transformers model; return the directory."""
    tag = to / f"global_step{step}_universal"
    for name, parameter in model.named_parameters():
        folder = tag / "zero" / name
        folder.mkdir(parents=True)
        states = {kind: moment(name, kind, parameter) for kind in ("exp_avg", "exp_avg_sq")}
        for state, value in {"fp32": parameter.detach(), **states}.items():
            table = {"cat_dim": 0, "param": value.clone()}
            torch.save(table if form == "zero-1" else value.flatten(), folder / f"{state}.pt")
        if form == "zero-1":
            torch.save(torch.tensor(float(step)), folder / "step.pt")
    inner = {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": []}
    common: dict[str, Any] = {"ds_version": "0.19.8", "param_groups": []}
    common |= {"optimizer_state_dict": inner} if form == "zero-3" else {}
    torch.save(common, tag / "zero" / "optimizer_state.pt")
    prefix = "" if form == "zero-1" else "zero_pp_rank_0_"
    torch.save({"global_steps": step}, tag / f"{prefix}mp_rank_00_model_states.pt")
    (to / "latest_universal").write_text(tag.name)
    return to
