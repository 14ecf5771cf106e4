"""The evaluation harness on the checkpoint, on the server, and on our model class: equal scores."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from moe.checkpoint.reader import Checkpoint
from moe.planning.plan.file import save_plan
from tests import runs
from tests.serving import Server

SECONDS = 300
PREFIX = 1
"""The token before a text, which the harness chooses otherwise for each kind of model."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
ROWS = [
    {"question": "the quick brown", "choices": [" fox", " dog", " router"], "answer": 0},
    {"question": "the lazy", "choices": [" token", " dog", " brûlée"], "answer": 1},
    {"question": "a mixture of", "choices": [" experts", " dogs"], "answer": 0},
    {"question": "sends each token to the two", "choices": [" experts: a", " 🙂"], "answer": 0},
    {"question": "наука,", "choices": [" 機械学習", " and so on", " x"], "answer": 1},
]
COMMON = {"dataset_path": "json", "test_split": "test", "num_fewshot": 0}
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "perplexity": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}{{choices[0]}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["x", "\n"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of tasks over rows of our own."""
    path = tmp_path_factory.mktemp("tasks")
    rows = path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in ROWS))
    for name, task in TASKS.items():
        whole = (
            COMMON | task | {"task": name, "dataset_kwargs": {"data_files": {"test": str(rows)}}}
        )
        (path / f"{name}.yaml").write_text(yaml.safe_dump(whole))
    return path


def evaluated(programs: Path, tasks: Path, out: Path, *model: str) -> dict[str, Any]:
    """Run the harness; return each task's scores and what the model said to each row."""
    command = [programs / "lm_eval", "run", "--include_path", tasks, "--tasks", ",".join(TASKS)]
    command += ["--output_path", out, "--log_samples", "--batch_size", "1", *model]
    environment = os.environ | OFFLINE | {"HF_HOME": str(out / "home")}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (scores,) = out.rglob("results_*.json")
    found = {"scores": json.loads(scores.read_text())["results"]}
    for name in TASKS:
        (samples,) = out.rglob(f"samples_{name}_*.jsonl")
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        found[name] = {row["doc_id"]: row["filtered_resps"] for row in rows}
    return found


@pytest.fixture(scope="module")
def local(
    server: Server, programs: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the checkpoint scores."""
    return evaluated(
        programs,
        tasks,
        tmp_path_factory.mktemp("local"),
        *("--model", "hf", "--device", "cpu"),
        *("--model_args", f"pretrained={server.model},dtype=float32,prefix_token_id={PREFIX}"),
    )


@pytest.mark.parametrize("tokenizer", ["remote", "huggingface"])
def test_the_server_scores_as_the_checkpoint_does(
    server: Server,
    programs: Path,
    tasks: Path,
    local: dict[str, Any],
    tmp_path: Path,
    tokenizer: str,
) -> None:
    url = f"base_url={server.url}/v1/completions,model=tiny,max_length=1024"
    url += f",custom_prefix_token_id={PREFIX}"
    served = evaluated(
        programs,
        tasks,
        tmp_path,
        *("--model", "local-completions"),
        *("--model_args", f"{url},tokenizer={server.model},tokenizer_backend={tokenizer}"),
    )
    server.rest()
    assert_same(served, local)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare the scores of all tasks, and what was said to each row."""
    for name, scores in expected["scores"].items():
        numbers = {key: value for key, value in scores.items() if isinstance(value, float)}
        assert numbers
        for key, value in numbers.items():
            assert found["scores"][name][key] == pytest.approx(value, rel=1e-4), (name, key)
    assert found["answers"] == expected["answers"]
    for row, answers in expected["choices"].items():
        for (logprob, greedy), (theirs, best) in zip(answers, found["choices"][row], strict=True):
            assert float(theirs) == pytest.approx(float(logprob), abs=1e-3)
            assert str(best) == str(greedy)


def run_python(programs: Path, home: Path, module: str, *words: object) -> None:
    """Run a module of ours where the harness is installed."""
    done = subprocess.run(
        [programs / "python", "-W", "ignore", "-m", module, *map(str, words)],
        env=os.environ | OFFLINE | {"HF_HOME": str(home), "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def ours(
    server: Server, programs: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What our model class scores, in this process: with the token before texts, and without."""
    home = tmp_path_factory.mktemp("ours")
    out = home / "out.json"
    run_python(programs, home, "tests.clients.in_process", server.model, tasks, out)
    found: dict[str, Any] = json.loads(out.read_text())
    for results in found.values():
        for name in TASKS:
            results[name] = {int(row): said for row, said in results[name].items()}
    return found


def test_our_model_class_scores_as_the_checkpoint_does(
    local: dict[str, Any], ours: dict[str, Any]
) -> None:
    assert_same(ours["one"], local)


@pytest.mark.parametrize("split", [False, True], ids=["process", "actors"])
def test_raymoe_evaluate_scores_alike_in_a_process_and_on_actors(
    split: bool, server: Server, programs: Path, tasks: Path, ours: dict[str, Any], tmp_path: Path
) -> None:
    words: list[object] = ["evaluate", server.model, "--tasks", tasks]
    if split:
        plan = runs.plan(Checkpoint.open(server.model).config, (1, 2))
        save_plan(plan, tmp_path / "plan.toml")
        words += ["--plan", tmp_path / "plan.toml"]
    out = tmp_path / "found.json"
    run_python(programs, tmp_path, "pipelines.cli", *words, "--json", out)
    found = json.loads(out.read_text())["tasks"]
    for name, scores in ours["usual"]["scores"].items():
        for key, value in scores.items():
            if isinstance(value, float):
                score = found[name][key.removesuffix(",none")]
                assert score == pytest.approx(value, rel=1e-4), (name, key)
