"""Cross entropy of the next token.

Shapes: B batch, S sequence, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


def cross_entropy_sum(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Return the summed loss in nats, in float32; labels of -100 do not count."""
    return F.cross_entropy(
        logits_BSV.flatten(0, 1).float(),
        labels_BS.flatten().long(),
        ignore_index=IGNORED,
        reduction="sum",
    )
