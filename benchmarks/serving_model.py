"""The model that servers are measured with: the demo's dense model with four noisy experts a layer.

374 M parameters, of which a token takes 214 M, in the form of Mixtral, which all engines read.
"""

from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.material import CONFIG
from moe.surgery.copies import Noise
from moe.surgery.initialise import initialise
from moe.surgery.options import UpcycleOptions
from moe.surgery.upcycle import upcycle

NAME = "mixtral"
LETTERS = [chr(number) for number in range(33, 127)]


def serving_model(dense: Path) -> Path:
    """Return the model beside the dense one, made if it is not there."""
    model = dense.absolute().with_name(NAME)
    if not model.exists():
        upcycle(dense, model, UpcycleOptions(4, 2, family="mixtral", method=Noise()))
    return model


def small_serving_model(folder: Path) -> Path:
    """Return the same in small. Its tokens are letters, which a server can send, and none ends."""
    dense = folder / "letters"
    initialise(replace(CONFIG, vocab_size=len(LETTERS), eos_token_ids=()), dense, seed=0)
    names = {letter: number for number, letter in enumerate(LETTERS)}
    tokenizer = Tokenizer(models.BPE(names, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(dense / "tokenizer.json"))
    return serving_model(dense)
