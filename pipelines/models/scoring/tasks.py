"""Tasks of EleutherAI's evaluation harness, ``lm-eval``, on a model of ours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe.errors import ConfigError, DataError, RaymoeError
from pipelines.models.scoring.engines import Where, opened
from pipelines.models.scoring.fit import Fit
from pipelines.models.scoring.runner import Progress, Runner

if TYPE_CHECKING:
    from pipelines.models.scoring.harness import HarnessModel


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """``tasks`` are names that the harness knows, task files, or directories of task files.

    Of each task the first ``limit`` rows; None: all. ``batch`` prompts run together, and at most
    ``length`` tokens of each are read, with its answer; None: as many as the model takes, up to
    8,192.
    """

    tasks: tuple[str, ...]
    limit: int | None = None
    batch: int = 8
    length: int | None = None

    def __post_init__(self) -> None:
        if not self.tasks or self.batch < 1 or min(self.limit or 1, self.length or 1) < 1:
            raise ConfigError(
                f"asked for {len(self.tasks)} tasks, {self.limit or 'all'} rows of each, "
                f"{self.batch} together; give at least 1"
            )


def check_harness() -> None:
    """Raise ConfigError where the harness is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"tasks are run by lm-eval, which is not there ({error}); install raymoe[eval]"
        ) from error


def score_tasks(
    model: Path, options: TaskOptions, where: Where, progress: Progress
) -> Mapping[str, Any]:
    """Return the harness's results of some tasks on a model directory.

    ConfigError where it is not installed, DataError where a task cannot be read.
    """
    check_harness()
    from pipelines.models.scoring.harness import HarnessModel

    specs, bundled = _specs(options.tasks)
    fit = Fit.of(model, options.length, options.batch)
    with opened(model, where, fit.how) as engine:
        room = fit.room.over(where.stages)
        loaded = HarnessModel(Runner(engine, room, fit.text), fit, progress=progress)
        return _run(loaded, specs, bundled, options.limit)


def _specs(asked: Sequence[str]) -> tuple[list[str], bool]:
    """Return task files and names of tasks, and whether there are names among them."""
    found, names = list[str](), False
    for each in asked:
        path = Path(each)
        if path.is_dir():
            files = sorted(path.glob("*.yaml"))
            found += [str(file.absolute()) for file in files if not file.name.startswith("_")]
            if not files:
                raise DataError(f"{path} holds no task file; give one of lm-eval's, NAME.yaml")
        elif path.suffix == ".yaml":
            if not path.is_file():
                raise DataError(f"no task file at {path}")
            found.append(str(path.absolute()))
        else:
            found.append(each)
            names = True
    return found, names


def _run(
    model: "HarnessModel", specs: list[str], bundled: bool, limit: int | None
) -> Mapping[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    try:
        results: Mapping[str, Any] = simple_evaluate(
            model, tasks=specs, limit=limit, task_manager=TaskManager(include_defaults=bundled)
        )
    except RaymoeError:
        raise
    except Exception as error:  # Task files are programs of other people.
        raise DataError(
            f"the harness cannot run {', '.join(specs)}: {error}; give a task file, a directory "
            "of task files, or a name that `lm-eval ls tasks` lists"
        ) from error
    return results


def figures(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the numbers of each task by the name of the metric."""
    return {
        task: {
            name.removesuffix(",none"): float(value)
            for name, value in found.items()
            if isinstance(value, int | float) and math.isfinite(value) and "," in name
        }
        for task, found in results["results"].items()
    }
