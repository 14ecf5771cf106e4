"""The story of a RayService: applied, its ranks come late, it answers, it is changed while it
answers, it is deleted.
"""

import json
import threading
import urllib.request

import tomli_w

from cluster.kube.kinds import POD, RAYSERVICE
from moe.checkpoint.reader import Checkpoint
from moe.planning.plan.file import save_plan
from tests import runs
from tests.kube.kuberay.pods import CLUSTER, SERVE_PORT
from tests.kube.kuberay.services import endpoints
from tests.kube.node.balancer import balanced
from tests.kube.node.network import GATEWAY
from tests.kube.story import VOLUME, Story, Told, tell

NAME = "tiny"
LATE_SECONDS = 120.0
"""How long after the head the pods of the ranks come."""


class Asker:
    """Asks the server for completions, one after the other, each by a connection of its own."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(60)

    def _ask_on(self) -> None:
        while not self._over.wait(0.1):
            try:
                self.answers.append(ask())
            except (OSError, ValueError, KeyError) as error:
                self.failures.append(repr(error))


def ask() -> str:
    """Return what the server makes of a prompt, the same every time."""
    asked = {"model": NAME, "prompt": "1 and 2", "max_tokens": 8, "temperature": 0, "seed": 1}
    request = urllib.request.Request(
        f"http://{GATEWAY}:{SERVE_PORT}/v1/completions",
        data=json.dumps(asked).encode(),
        headers={"Content-Type": "application/json", "Connection": "close"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.loads(answer.read())["choices"][0]["text"])


def play(story: Story) -> Told:
    """Serve, and change what serves while it answers."""
    story.late = LATE_SECONDS
    told: Told = {"applied": _apply(story)}
    with balanced(
        lambda: endpoints(story.cluster.objects, f"{NAME}-serve-svc"), SERVE_PORT
    ) as went:
        story.until(lambda: _is_ready(story))
        told |= {"status": story.raymoe("kube", "status", NAME), "first": ask()}
        story.late = 0.0
        first, asker = _active(story), Asker()
        story.until(lambda: len(asker.answers) >= 3)
        told["changed"] = _apply(story, CHANGED="1")
        story.until(lambda: _active(story) != first)
        told["while"] = len(asker.answers)
        story.until(lambda: not story.cluster.objects.every(POD, f"{CLUSTER}={first}"))
        story.until(lambda: len(asker.answers) > told["while"] + 3)
        asker.close()
        told |= {"clusters": [first, _active(story)], "pods": sorted(set(went))}
        told |= {"answers": sorted(set(asker.answers)), "failures": asker.failures}
    told["deleted"] = story.raymoe("kube", "delete", NAME).splitlines()
    return told | {"left": story.left()}


def _apply(story: Story, **variables: str) -> list[str]:
    """Render the server, with variables in its pods, and apply it."""
    run, file, plan = (story.folder / name for name in ("run.toml", "service.yaml", "plan.toml"))
    model = story.data / "model"
    run.write_text(tomli_w.dumps(_run()))
    save_plan(runs.plan(Checkpoint.open(model).config, (3,)), plan)
    options = story.deployment(
        service={"delete_seconds": 5, "arguments": {"cache_tokens": 512}},
        pods={"environment": variables},
    )
    words = ("--model", model, "--plan", plan, "--deployment", options, "--to", file)
    story.raymoe("kube", "render", run, "--service", *words)
    return story.raymoe("kube", "apply", file).splitlines()


def _run() -> Told:
    return {
        "name": NAME,
        "model": {"path": f"{VOLUME}/model"},
        "data": {"path": f"{VOLUME}/tokens"},
        "train": {"steps": 1, "global_batch": 1, "learning_rate": 1e-3},
        "checkpoint": {"path": f"{VOLUME}/run"},
    }


def _status(story: Story) -> Told:
    service = story.cluster.objects.get(RAYSERVICE, NAME) or {}
    return dict(service.get("status") or {})


def _is_ready(story: Story) -> bool:
    conditions = _status(story).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _active(story: Story) -> str:
    return str(_status(story).get("activeServiceStatus", {}).get("rayClusterName", ""))


if __name__ == "__main__":
    tell(play)
