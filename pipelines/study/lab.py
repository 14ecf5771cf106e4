"""Where the arms of studies are run: a directory with one text, and a folder for each arm.

An arm whose record is there is not run again, also where another study asks for it. An arm that was
stopped starts again from its beginning: an arm takes minutes.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from actors.state.sources import ModelSource, Source
from moe.checkpoint.writer import write_json
from moe.config.run import RunConfig, parse_run
from moe.config.tensors import active_parameters, parameters
from moe.errors import ConfigError
from moe.staging import staged
from moe.surgery.initialise import initialise
from moe.surgery.upcycle import upcycle
from pipelines.corpus.inputs import TOKENIZER
from pipelines.corpus.shards import TokenShards
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from pipelines.models.evaluate import EvaluateOptions, evaluate
from pipelines.study.arm import Arm, Continued, Upcycled
from pipelines.study.record import Look, Record, Step, read_record, write_record
from pipelines.study.solo import Solo
from pipelines.study.spoiled import SpoiledSource
from pipelines.study.text import library_text, write_vocabulary
from pipelines.training.batches import batches

LENGTH, SEQUENCES = 128, 16
TOKENS_A_STEP = LENGTH * SEQUENCES
HELD_OUT = EvaluateOptions(rows=128, batch=16)
RECORD, LOCK, ABOUT = "record.json", ".lock", "lab.json"
LIBRARY = "Python's standard library"

Told = Callable[[Arm, int, int], None]
"""Called with an arm, its steps done and all its steps."""


@contextmanager
def open_lab(folder: Path, text: Path | None, threads: int, told: Told) -> Iterator["Lab"]:
    """Yield the lab in a directory, which is made where it is missing.

    ConfigError if another process uses it, or its arms were trained on another text.
    """
    if text is not None and not text.exists():
        raise ConfigError(f"--text {text} does not exist; give text files, or leave it out")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another study runs in {folder}; wait for it, or choose another directory"
            ) from None
        _check_text(folder, LIBRARY if text is None else str(text.resolve()))
        yield Lab(folder, text, threads, told)


def _check_text(folder: Path, asked: str) -> None:
    kept = folder / ABOUT
    if not kept.exists():
        write_json(kept, {"text": asked})
    found = json.loads(kept.read_text())["text"]
    if found != asked:
        raise ConfigError(
            f"the runs in {folder} were trained on {found}, not on {asked}, and their losses do "
            "not compare; choose another directory, or the same text"
        )


@dataclass(frozen=True, slots=True)
class Lab:
    """A directory of arms; ``text`` None takes Python's standard library."""

    folder: Path
    text: Path | None
    threads: int
    told: Told

    def record(self, arm: Arm) -> Record:
        """Return what an arm recorded; it is run now if it was not."""
        done = self._folder(arm) / RECORD
        if not done.exists():
            self._run(arm)
        return read_record(done)

    def records(self, arms: Sequence[Arm]) -> list[Record]:
        """Return what several arms recorded."""
        return [self.record(arm) for arm in arms]

    def model(self, arm: Arm, part: float) -> Path:
        """Return the model that an arm kept after a part of its budget."""
        self.record(arm)
        return self._folder(arm) / _kept(part)

    @property
    def tokens(self) -> Path:
        """The token shards; they are made when they are asked for first."""
        shards = self.folder / "tokens"
        if not shards.exists():
            words = self._vocabulary()
            options = TokenizeOptions(LENGTH, held_out_fraction=0.05)
            tokenize([self._text()], words, shards, options, report=lambda line: None)
        return shards

    def _text(self) -> Path:
        if self.text is not None:
            return self.text
        text = self.folder / "text"
        if not text.exists():
            with staged(text) as partial:
                library_text(partial)
        return text

    def _vocabulary(self) -> Path:
        words = self.folder / "vocabulary"
        if not words.exists():
            with staged(words) as partial:
                write_vocabulary(self._text(), partial)
                (partial / "config.json").write_text('{"eos_token_id": 0}')
        return words

    def _folder(self, arm: Arm) -> Path:
        return self.folder / "arms" / arm.key

    def _run(self, arm: Arm) -> None:
        folder = self._folder(arm)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        torch.set_num_threads(self.threads)
        source = self._source(arm, folder)
        run = run_file(arm, folder / "start", self.tokens)
        record = _Training(arm, run, source, folder, self.threads, self.told).all()
        _drop(folder, {_kept(part) for part in arm.keeps})
        write_record(folder / RECORD, record)

    def _source(self, arm: Arm, folder: Path) -> Source:
        """Return where the weights of an arm come from; its first model is ``start``."""
        start, model = arm.start, folder / "start"
        if isinstance(start, Continued):
            os.symlink(self.model(start.arm, start.part).absolute(), model)
            return ModelSource(model)
        if isinstance(start, Upcycled):
            options = replace(start.options, seed=arm.seed)
            upcycle(self.model(start.arm, start.part), model, options)
            return ModelSource(model)
        initialise(start.config, model, arm.seed)
        shutil.copyfile(self._vocabulary() / TOKENIZER, model / TOKENIZER)
        source = ModelSource(model)
        return SpoiledSource(source, start.spoiled) if start.spoiled else source


@dataclass(frozen=True, slots=True)
class _Training:
    """One arm while it runs."""

    arm: Arm
    run: RunConfig
    source: Source
    folder: Path
    threads: int
    told: Told

    def all(self) -> Record:
        """Train to the end of the budget, looking at the model where the arm says."""
        total = self.run.train.steps
        kept = {_step(part, total): _kept(part) for part in self.arm.keeps}
        looked = {_step(part, total) for part in self.arm.looks}
        shards = TokenShards.open(self.run.data.path, "train")
        solo = Solo(self.run, self.source, shards.sequence_length, self.threads)
        steps, looks, spent = [], [], 0.0
        for batch in islice(batches(self.run, shards, 0), total):
            started = time.perf_counter()
            report = solo.step(batch)
            spent += time.perf_counter() - started
            layers = [report.layers[number] for number in sorted(report.layers)]
            assert report.loss is not None, "the one rank has the head"
            drops = tuple(layer.drop_rate for layer in layers)
            alphas = tuple(layer.coefficient for layer in layers)
            sharp = tuple(layer.sharpness for layer in layers)
            steps.append(Step(report.loss, drops, alphas, sharp))
            done = batch.step + 1
            if done in looked or done in kept:
                now = self.folder / kept.get(done, "now")
                solo.save(now, done)
                looks.append(self._look(now, done))
                shutil.rmtree(self.folder / "now", ignore_errors=True)
            self.told(self.arm, done, total)
        solo.close()
        config = self.source.config()
        sizes = (parameters(config), active_parameters(config))
        name, seed = self.arm.name, self.arm.seed
        return Record(name, seed, TOKENS_A_STEP, *sizes, spent, tuple(steps), tuple(looks))

    def _look(self, model: Path, done: int) -> Look:
        found = evaluate(model, self.run.data.path, HELD_OUT)
        layers = [found.layers[number] for number in sorted(found.layers)]
        return Look(
            done * TOKENS_A_STEP,
            found.loss,
            tuple(layer.similarity for layer in layers),
            tuple(layer.sharpness for layer in layers),
            tuple(layer.imbalance for layer in layers),
        )


def run_file(arm: Arm, model: Path, tokens: Path) -> RunConfig:
    """Return the run file of an arm."""
    steps = max(1, arm.tokens // TOKENS_A_STEP)
    table: dict[str, Any] = {
        "name": "arm",
        "model": {"path": str(model)},
        "data": {"path": str(tokens), "seed": arm.seed},
        "train": {
            "steps": steps,
            "global_batch": SEQUENCES,
            "micro_batch": SEQUENCES,
            "learning_rate": arm.peak,
            "min_learning_rate": arm.floor,
            "warmup_steps": int(steps * arm.warmup),
        },
        "checkpoint": {"path": "unused"},
        "elastic": {"copy_every": 0, "orphan_seconds": 0},
        "routing": dict(arm.routing),
        "balance": dict(arm.balance),
    }
    return parse_run(table, f"the arm {arm.name}")


def _step(part: float, total: int) -> int:
    """Return the step after which a part of the budget is spent."""
    return max(1, round(part * total))


def _kept(part: float) -> str:
    return f"after-{part:g}"


def _drop(folder: Path, kept: set[str]) -> None:
    """Delete what an arm needed while it ran."""
    for path in folder.iterdir():
        if path.is_symlink():
            path.unlink()
        elif path.name not in kept:
            shutil.rmtree(path)
