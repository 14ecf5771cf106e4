"""Whether a rank that trains has memory left for keys and values of requests."""

from actors.commands import Answering
from actors.rank.share import LoadedShare
from moe.errors import LaunchError
from moe.nn.inference.rows import BLOCK
from moe.sizes import size_text


def check_room(rank: int, share: LoadedShare, how: Answering) -> None:
    """Raise LaunchError where the keys and values of so many blocks do not fit."""
    reserved = share.command.plan.rank(share.command.seat).memory_bytes
    free, block = share.device.free_bytes(reserved), share.generator.block_bytes(how)
    needed = how.blocks * block
    if needed > free:
        raise LaunchError(
            f"keys and values of {how.blocks * BLOCK} tokens take {size_text(needed)} on rank "
            f"{rank}, which has {size_text(free)} left, enough for {free // block * BLOCK}; give "
            "fewer by --cache-tokens, or --cache bf16"
        )
