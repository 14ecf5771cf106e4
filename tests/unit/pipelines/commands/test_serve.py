"""What is wrong with the adapters of a server is said before anything starts."""

import pytest

from tests import tiny
from tests.shell import Shell


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapter", "poet"], "--adapter is 'poet'; give a name and a directory, NAME=DIR"),
        (["--adapter", "=x"], "--adapter is '=x'"),
        (["--adapter", "a=x", "--adapter", "a=y"], "two adapters have the name 'a'; choose"),
        (["--adapter", "a={model}"], "model is no adapter: it has no adapter_config.json"),
        (["--load-adapters"], "give api_keys, so that not everybody can"),
        (["--adapter-gb", "0"], "adapter_gb: Input should be greater than 0; found 0"),
        (["--rebalance-seconds", "9"], "of a gang, but its gangs have one rank each; give a plan"),
    ],
)
def test_adapters(shell: Shell, words: list[str], message: str) -> None:
    model = tiny.saved(tiny.llama(), shell.path / "model")
    said = shell.refused("serve", model, *(word.format(model=model) for word in words))
    assert message in said
