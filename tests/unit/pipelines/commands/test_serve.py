"""What is wrong with the options of a server is said before anything starts."""

from typing import Any

import pytest

from pipelines.serving import running
from pipelines.serving.arguments import RunArguments
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


def test_a_run_needs_no_options(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    monkeypatch.setattr(running, "run_server", lambda *arguments: served.append(arguments[:4]))
    shell.run("serve", "--run", "demo")
    assert served == [(RunArguments(run="demo"), "127.0.0.1", 8000, "auto")]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["model"], "model"),
        (["--plan", "plan.toml"], "plan"),
        (["--weights", "fp32"], "weights"),
        (["--adapter", "poet=adapters/poet"], "adapters"),
        (["--adapter-gb", "1"], "adapter_gb"),
        (["--load-adapters"], "load_adapters"),
        (["--rebalance-seconds", "0"], "rebalance_seconds"),
        (["--replicas", "1"], "replicas"),
        (["--max-replicas", "2"], "max_replicas"),
        (["--routing", "prefix"], "routing"),
    ],
)
def test_options_of_a_model_do_not_go_with_a_run(shell: Shell, words: list[str], name: str) -> None:
    said = shell.refused("serve", "--run", "demo", *words)
    assert f"serving argument {name}: does not go with run" in said
