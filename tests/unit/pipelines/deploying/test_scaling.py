"""A run and its groups of pods resized together, with KubeRay and the run played by the test."""

from collections.abc import Iterator

import pytest

from cluster.kube.api import Api
from cluster.kube.scale_wish import ScaleWish, wish_of
from cluster.kube.taking import NOTE, taken_by
from cluster.stands import Stands
from moe.errors import ClusterError, ConfigError, DeadlineExceeded
from pipelines.deploying import scaling
from pipelines.deploying.scaling import Scaling
from tests.kube.played import JOB, PlayedPods
from tests.kube.server import Store, serving
from tests.manifests.samples import deployment, two_stages

STAGES = 2


class Scene:
    """A run of one replica of two stages, and its pods. ``refuses``: what it answers to a wish."""

    def __init__(self, store: Store, api: Api) -> None:
        self.store, self.api = store, api
        self.pods = PlayedPods(store, lambda: self.where, lambda number: f"10.0.0.{number}")
        self.refuses, self.replicas = "", 1
        self.where: list[str] = []
        self.asked: list[str] = []

    def begin(self, autoscale: bool = False) -> None:
        options = deployment(namespace="raymoe", workers={"autoscale": autoscale})
        self.pods.begin(two_stages(), options)
        self.where = self.pods.names

    def stands(self) -> Stands:
        nodes = tuple(map(self.pods.address_of, self.where))
        return Stands("demo", self.replicas, STAGES, 2, "d", nodes)

    def scale(self, wish: ScaleWish, seconds: float) -> Stands:
        self.asked.append(str(wish))
        if self.refuses:
            raise ClusterError(self.refuses)
        assert wish.replicas is not None
        # The ranks that stay are in the last pods: who takes the first away takes their pods.
        self.where = self.pods.names[-wish.replicas * STAGES :]
        assert len(self.where) == wish.replicas * STAGES, "the run was asked before its pods came"
        self.replicas = wish.replicas
        return self.stands()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(scaling, "POLL_SECONDS", 0.0)
    store = Store()
    with serving(store) as api:
        yield Scene(store, api)


def carry_out(scene: Scene, wish: ScaleWish, seconds: float = 30.0) -> None:
    Scaling(scene.api, "raymoe", JOB, scene, scene.pods.tell).carry_out(wish, seconds)


def replicas(count: int) -> ScaleWish:
    return wish_of(count, None, None)


def test_pods_come_before_the_ranks_and_go_after_them(scene: Scene) -> None:
    scene.begin()
    carry_out(scene, replicas(3))
    assert scene.pods.lines == [
        "enlarge: cpu-0 to 6 pods",
        "waiting: 2 of 6 pods of cpu-0 run",
        "asking the run for --replicas 3",
        "done: replicas 3, pods with ranks 6",
    ]
    assert (scene.pods.group["replicas"], scene.pods.group["maxReplicas"]) == (6, 6)
    carry_out(scene, replicas(1))
    assert scene.pods.names == scene.where == ["p5", "p6"]
    assert scene.pods.group["replicas"] == 2
    assert scene.pods.group["scaleStrategy"] == {"workersToDelete": []}
    assert scene.asked == ["--replicas 3", "--replicas 1"]


def test_what_is_there_already_is_left_and_nobody_is_asked(scene: Scene) -> None:
    scene.begin()
    before = scene.store.version
    carry_out(scene, replicas(1))
    assert (scene.asked, scene.store.version) == ([], before)
    assert scene.pods.lines == ["done: replicas 1, pods with ranks 2"]


def test_an_autoscaler_makes_the_pods_and_takes_them(scene: Scene) -> None:
    scene.begin(autoscale=True)
    carry_out(scene, replicas(2))
    assert len(scene.where) == 4
    assert (scene.pods.group["minReplicas"], scene.pods.group["maxReplicas"]) == (0, 4)
    carry_out(scene, replicas(1))
    assert (scene.pods.group["minReplicas"], scene.pods.group["maxReplicas"]) == (0, 2)
    assert sorted(scene.pods.names) == sorted(scene.where)


def test_a_deadline_says_what_is_left_and_the_same_command_goes_on(scene: Scene) -> None:
    scene.begin()
    scene.pods.room = 3
    with pytest.raises(DeadlineExceeded) as caught:
        carry_out(scene, replicas(2), seconds=1)
    said = str(caught.value)
    assert "not done after 1 s: 3 of 4 pods of cpu-0 run" in said
    assert "the run goes on under its old plan; cpu-0 asks for 4 pods, 3 run, 2 have ranks" in said
    assert scene.asked == []
    assert NOTE not in scene.pods.cluster["metadata"]["annotations"]
    scene.pods.room = 9
    scene.pods.tell("a node came")
    carry_out(scene, replicas(2))
    assert len(scene.where) == 4


def test_the_way_back_gives_back_the_pods_that_have_no_ranks(scene: Scene) -> None:
    scene.begin()
    scene.refuses = "change of plan rolled back after step 7, the old plan goes on: no memory"
    with pytest.raises(ClusterError) as caught:
        carry_out(scene, replicas(2))
    assert str(caught.value).startswith(scene.refuses)
    assert "cpu-0 asks for 4 pods, 4 run, 2 have ranks" in str(caught.value)
    carry_out(scene, replicas(1))
    assert scene.pods.names == scene.where
    assert scene.pods.group["replicas"] == 2


def test_a_run_that_grew_by_itself_is_well(scene: Scene) -> None:
    """A run that follows nodes grows as soon as its pods are there, and refuses what it has."""
    scene.begin()
    grows = scene.scale

    def scale(wish: ScaleWish, seconds: float) -> Stands:
        grows(wish, seconds)
        raise ClusterError("the run has this plan already; wish for another")

    scene.scale = scale  # type: ignore[method-assign]
    carry_out(scene, replicas(2))
    assert len(scene.where) == 4


def test_another_wish_waits_for_its_turn(scene: Scene) -> None:
    scene.begin()

    def scale(wish: ScaleWish, seconds: float) -> Stands:
        with pytest.raises(ClusterError, match=r"another resize is under way \(--replicas 2\)"):
            carry_out(scene, replicas(3))
        assert taken_by(scene.pods.cluster) == "--replicas 2"
        return Scene.scale(scene, wish, seconds)

    scene.scale = scale  # type: ignore[method-assign]
    carry_out(scene, replicas(2))
    assert scene.replicas == 2


def test_a_run_of_a_queue_shrinks_and_does_not_outgrow_what_was_admitted(scene: Scene) -> None:
    scene.begin()
    labels = scene.store.find("rayjobs", "demo")["metadata"]["labels"]
    labels["kueue.x-k8s.io/queue-name"] = "team"
    with pytest.raises(ClusterError, match="Kueue has admitted the pods that the job began with"):
        carry_out(scene, replicas(2))
    assert scene.pods.group["replicas"] == 2


def test_a_run_that_has_ended_is_not_resized(scene: Scene) -> None:
    scene.begin()
    scene.store.find("rayjobs", "demo")["status"]["jobStatus"] = "SUCCEEDED"
    with pytest.raises(ClusterError, match="RayJob/demo is finished"):
        carry_out(scene, replicas(2))


def test_a_wish_is_one_of_three() -> None:
    with pytest.raises(ConfigError, match="2 of --replicas, --plan and --nodes"):
        wish_of(2, None, 3)
    with pytest.raises(ConfigError, match="--nodes is 0"):
        wish_of(None, None, 0)
    assert str(wish_of(None, None, 3)) == "--nodes 3"
