"""The job that trains a run: its command, what it says of itself, and the code that it runs."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import moe
from cluster.job_words import Code
from cluster.jobs import JobRequest

RUN_VARIABLE = "RAYMOE_RUN"
"""Environment variable that carries the run file into the job: it need not be uploaded."""

Resume = Literal["never", "always", "if-saved"]

_OPTIONS = {"never": "", "always": " --resume", "if-saved": " --resume-if-saved"}


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A run for a cluster: ``run`` is the text of its file, as TOML, whose paths are the cluster's.

    ``words`` describe the run to whoever lists jobs. ``python`` is the interpreter on the head's
    node.
    """

    name: str
    run: str
    words: dict[str, str]
    python: str = "python"
    resume: Resume = "never"
    code: Code | None = None

    @property
    def tree(self) -> Path | None:
        """The directory that is sent along; None if the cluster's own code runs.

        Files that ``.gitignore`` or ``.rayignore`` name are not sent.
        """
        return None if self.code == "image" else project_root()

    def request(self) -> JobRequest:
        """Return the request that trains the run."""
        return JobRequest(
            name=self.name,
            entrypoint=f'printf %s "${RUN_VARIABLE}" | {self.python} -m pipelines.cli train '
            f"/dev/stdin{_OPTIONS[self.resume]}",
            working_dir=self.tree,
            metadata={"run": self.name, **self.words, "code": self.version},
            environment={RUN_VARIABLE: self.run},
        )

    @property
    def version(self) -> str:
        """The code that the job runs, in words."""
        if self.tree is None:
            return "that of the image"
        return f"raymoe {moe.__version__}, {_commit(self.tree)}"


def project_root() -> Path | None:
    """Return the directory of this source tree, or None if raymoe is installed as a wheel."""
    root = Path(moe.__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else None


def _commit(tree: Path) -> str:
    """Return the commit of a tree, and whether it was changed since."""
    words = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "no commit known"
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else "no commit known"
