"""The story of a RayJob: applied, scaled from nothing, trained, hurt, mended, finished, deleted."""

from pathlib import Path

import tomli_w

from cluster.kube.kinds import RAYJOB
from moe.checkpoint.reader import Checkpoint
from moe.planning.plan.file import save_plan
from pipelines.training.recording import JOURNAL, recorded_steps
from tests import runs
from tests.kube.story import VOLUME, Story, Told, tell

NAME, STEPS, COPY_EVERY = "tiny", 100, 5
LATE_SECONDS = 60.0
"""How long after the loss the pod that replaces the lost one comes."""
ENDED = ("Complete", "Failed")


def play(story: Story) -> Told:
    """Train on pods that are not there at first, and lose one of them."""
    file = story.folder / "job.yaml"
    options = story.deployment(
        workers={"autoscale": True, "idle_seconds": 5}, job={"keep_seconds": 3600}
    )
    model = story.data / "model"
    plan = story.folder / "plan.toml"
    save_plan(runs.plan(Checkpoint.open(model).config, (2, 1)), plan)
    words = ("--model", model, "--plan", plan, "--deployment", options, "--to", file)
    story.raymoe("kube", "render", _run(story.folder), *words)
    told: Told = {"applied": story.raymoe("kube", "apply", file).splitlines()}
    told["before"] = len(story.pods("rank"))
    run = story.data / "run"
    story.until(lambda: (run / JOURNAL).exists() and len(recorded_steps(run)) >= 20)
    told |= {"most": len(story.pods("rank")), **_lose_a_pod(story)}
    story.until(lambda: _state(story) in ENDED)
    job = story.cluster.objects.get(RAYJOB, NAME) or {}
    told |= {"ended": job["status"], "log": story.raymoe("kube", "logs", NAME)}
    story.until(lambda: not story.pods("rank"))
    told["watched"] = story.raymoe("kube", "watch", NAME)
    told["deleted"] = story.raymoe("kube", "delete", NAME).splitlines()
    return told | {"left": story.left()}


def _lose_a_pod(story: Story) -> Told:
    """Kill all processes of one pod of ranks; the next one comes late."""
    story.late = LATE_SECONDS
    before = [each["metadata"]["name"] for each in story.pods("rank")]
    story.cluster.kubelet.crash(before[-1])
    story.until(lambda: before[-1] not in [each["metadata"]["name"] for each in story.pods("rank")])
    story.until(lambda: len(story.pods("rank")) == len(before))
    after = [each["metadata"]["name"] for each in story.pods("rank")]
    return {"pods": [before, after], "status": story.raymoe("kube", "status", NAME)}


def _state(story: Story) -> str:
    job = story.cluster.objects.get(RAYJOB, NAME) or {}
    return str(job.get("status", {}).get("jobDeploymentStatus", ""))


def _run(folder: Path) -> Path:
    table = {
        "name": NAME,
        "model": {"path": f"{VOLUME}/model"},
        "data": {"path": f"{VOLUME}/tokens", "sequence_length": 16},
        "train": {"steps": STEPS, "global_batch": 4, "learning_rate": 3e-3, "warmup_steps": 2},
        "checkpoint": {"path": f"{VOLUME}/run", "every": 0},
        "elastic": {"copy_every": COPY_EVERY, "spares": 0, "on_shrink": "wait"},
        "cluster": {"group_seconds": 60.0},
    }
    file = folder / "run.toml"
    file.write_text(tomli_w.dumps(table))
    return file


if __name__ == "__main__":
    tell(play)
