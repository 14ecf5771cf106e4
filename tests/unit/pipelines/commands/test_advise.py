"""`raymoe advise`, as a person types it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe.planning.prediction.predict import predict
from moe.planning.search.pins import Pins
from moe.planning.search.search import Question, search
from pipelines.planning.capacity import useful_flops
from tests import plans
from tests.shell import MOE, SMALL, WORK, Shell

ROOT = Path(__file__).parents[4]


def test_advise_needs_no_torch_and_no_ray_and_little_time(shell: Shell) -> None:
    """The bound is generous for a busy machine; docs/guide/planning.md has the figure."""
    dense = shell.model(SMALL, "dense")
    words = ["advise", shell.model(MOE), "--inventory", shell.inventory(plans.inventory(4))]
    words += ["--upcycle-from", dense, "--dense-tokens", "3.2T", "--moe-tokens", "1T"]
    script = (
        "import sys\nfrom pipelines.cli import main\n"
        f"sys.argv = ['raymoe', *{list(map(str, words))!r}]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "found = {'torch', 'ray', 'kubernetes', 'transformers'} & set(sys.modules)\n"
        "print('loaded', sorted(found))"
    )
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    seconds = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "loaded []" in said
    assert "training: step of 8 micro-batches" in said
    assert "serving: the key-value cache of" in said
    assert "verdict: upcycle" in said
    assert seconds < 8


def test_advise_weighs_upcycling_by_what_the_runs_cost(shell: Shell) -> None:
    dense, there = shell.model(SMALL, "dense"), shell.inventory(plans.inventory(2))
    words = ("advise", shell.model(MOE), "--inventory", there, "--upcycle-from", dense)
    verdicts = {
        tokens: shell.run(*words, "--dense-tokens", "300B", "--moe-tokens", tokens)[0]
        for tokens in ("1B", "150B", "3e12")
    }
    for told, verdict in zip(verdicts.values(), ("upcycle", "border", "train"), strict=True):
        assert f"verdict: {verdict}" in told
    flops = 150e9 * useful_flops(MOE, 512)
    assert f"150B tokens, {flops:.3g} FLOPs" in verdicts["150B"]
    there_too = plans.inventory(2)
    found = search(Question(MOE, there_too, WORK, 8, Pins(replicas=1, micro_batch=1)))
    rate = predict(MOE, found.plan, there_too, found.workload).tokens_per_second
    assert f"{150e9 / rate * found.plan.ranks / 3600:,.0f} device hours" in verdicts["150B"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--dense-tokens 1T", "give both or none"),
        ("--upcycle-from dense", "give both or none"),
        ("--upcycle-from dense --dense-tokens 1T", "give --moe-tokens"),
        ("--moe-tokens 1Q", "--moe-tokens is '1Q', which is no number of tokens"),
        ("--moe-tokens nan", "--moe-tokens is 'nan'"),
        ("--moe-tokens -3B", "--moe-tokens is '-3B'"),
        ("--imbalance 0", "--imbalance is 0"),
        ("--sequence-length 9000", "9000 but the model has 8192 positions"),
        ("--micro-batches 20000", "at most 10,000 are simulated"),
        ("--moe-tokens 1T --profile no.toml", "no profile at no.toml"),
    ],
)
def test_half_a_budget_is_refused(shell: Shell, words: str, why: str) -> None:
    there = shell.inventory(plans.inventory(1))
    assert why in shell.refused("advise", shell.model(MOE), "--inventory", there, *words.split())


def test_advise_says_what_does_not_fit_and_goes_on(shell: Shell) -> None:
    small = shell.inventory(plans.inventory(1, memory_bytes=10**9))
    out, _ = shell.run("advise", shell.model(MOE), "--inventory", small)
    training, _, serving = out.partition("serving: ")
    assert "training: " in training
    assert "GB" in training
    assert "tokens fits" in serving
