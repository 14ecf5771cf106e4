"""The loss of each domain against transformers' loss on the rows of that domain."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pipelines.corpus.shards import TokenShards
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from pipelines.models.evaluate import EvaluateOptions, evaluate
from pipelines.models.scoring.totals import TextLoss
from pipelines.models.scoring.windows import Window
from tests import tiny, vocabularies


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("domains")
    vocabulary = vocabularies.byte_level()
    made = tiny.llama(vocab_size=vocabulary.get_vocab_size())
    vocabularies.save(vocabulary, tiny.saved(made, folder / "model"))
    for domain, words in (("numbers", "17 23"), ("Prosa", "das Brûlée 🙂")):
        (folder / "text" / domain).mkdir(parents=True)
        for number in range(6):
            text = " ".join(f"{words} {number * place % 13}" for place in range(40))
            (folder / "text" / domain / f"{number}.txt").write_text(text)
    options = TokenizeOptions(sequence_length=24, held_out_fraction=0.4)
    tokenize([folder / "text"], folder / "model", folder / "tokens", options)
    return folder


@pytest.mark.parametrize("window", [None, Window(24, 24)])
def test_each_domain_has_the_loss_of_its_rows(folder: Path, window: Window | None) -> None:
    found = evaluate(folder / "model", folder / "tokens", EvaluateOptions(batch=3, window=window))
    shards = TokenShards.open(folder / "tokens", "held_out")
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
    sums: dict[str, list[float]] = {}
    for row, domain in enumerate(shards.domains(range(len(shards)))):
        batch = shards.batch([row])
        with torch.no_grad():
            logits = theirs(torch.from_numpy(batch.tokens).long()).logits
        labels = torch.from_numpy(batch.labels)
        loss = torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="sum")
        own = sums.setdefault(domain, [0.0, 0])
        own[0] += loss.item()
        own[1] += int((labels != -100).sum())
    assert len(sums) == 2
    assert found.domains.keys() == sums.keys()
    for domain, (loss, tokens) in sums.items():
        assert found.domains[domain].tokens == tokens
        assert found.domains[domain].loss == pytest.approx(loss / tokens, rel=1e-5)
    sizes = [each.bytes for each in found.domains.values()]
    assert sum(filter(None, sizes)) == found.bytes


def test_bits_per_byte_need_bytes() -> None:
    assert TextLoss(1.0, 10).bits_per_byte is None
    assert TextLoss(1.0, 10, 0).bits_per_byte is None
