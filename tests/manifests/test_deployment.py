"""The deployment file: every key has an effect on the objects, every fault is named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kuberay.deployment import Deployment, Toleration, Volume, load_deployment
from cluster.kuberay.rules import check
from moe.config.section import Section
from moe.errors import ConfigError
from tests.manifests.effects import EFFECTS, NEEDS, VOLUMES, Effect, Named
from tests.manifests.samples import deployment, job, service, two_stages
from tests.manifests.schema import faults

ROOT = Path(__file__).parents[2]
GPU_PLAN = two_stages(("A100-80G", "4090"))
effects = pytest.mark.parametrize(
    ("key", "value", "shown"), EFFECTS, ids=[key for key, *_ in EFFECTS]
)


def tables(options: Deployment) -> list[dict[str, Any]]:
    return [render(GPU_PLAN, options) for render in (job, service)]


def places(table: dict[str, Any]) -> list[Any]:
    """Return the tables in which a path of EFFECTS may begin."""
    spec = table["spec"]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    served = yaml.safe_load(spec.get("serveConfigV2", "{}")).get("applications", [])
    return [table, spec, cluster, *({"serve": each["args"]} for each in served)]


def values(options: Deployment, path: tuple[Any, ...]) -> list[Any]:
    """Return what stands at a path, in every place that has it."""
    reached = (_at(place, path) for table in tables(options) for place in places(table))
    return [node for node in reached if node is not None]


def _at(node: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        if isinstance(step, Named):
            node = next((each for each in node or () if each["name"] == step.name), None)
        elif isinstance(node, dict):
            node = node.get(step)
        elif isinstance(node, list):
            node = node[step] if step < len(node) else None
        else:
            return None
    return node


def changed(key: str, value: Any) -> Deployment:
    section, _, name = key.rpartition(".")
    needed = NEEDS.get(key, {})
    if not section:
        return deployment(**needed, **{name: value})
    return deployment(**(needed | {section: needed.get(section, {}) | {name: value}}))


@effects
def test_every_key_shows_in_the_objects(key: str, value: Any, shown: tuple[Effect, ...]) -> None:
    for path, expected in shown:
        found = values(changed(key, value), path)
        assert found, path
        assert all(each == expected for each in found), (path, found)
        assert not all(each == expected for each in values(deployment(), path) or [None]), path


@effects
def test_no_key_makes_objects_that_the_api_server_refuses(
    key: str, value: Any, shown: tuple[Effect, ...]
) -> None:
    for table in tables(changed(key, value)):
        assert faults(table) == check([table]) == []


@pytest.mark.parametrize(
    ("source", "shown"), VOLUMES, ids=[next(iter(each)) for each, _ in VOLUMES]
)
def test_a_volume_may_have_any_source(source: dict[str, Any], shown: tuple[Effect, ...]) -> None:
    options = deployment(volumes=[{"name": "more", "mount": "/more", **source}])
    for path, expected in shown:
        found = values(options, path)
        assert found
        assert all(each == expected for each in found)
    for table in tables(options):
        assert faults(table) == []


def keys(section: type[Section], before: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from keys(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def test_the_effects_are_of_every_key() -> None:
    assert sorted(keys(Deployment)) == sorted(key for key, *_ in EFFECTS)


def test_the_page_explains_every_key() -> None:
    page = (ROOT / "docs" / "guide" / "deployment.md").read_text(encoding="utf-8")
    for key in [*keys(Deployment), *Toleration.model_fields, *Volume.model_fields]:
        assert f"`{key.rpartition('.')[2]}`" in page, key


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("image.nme=a:1", r"image\.nme: unknown key; did you mean name\?"),
        ("imag.name=a:1", r"imag: unknown key; did you mean image\?"),
        ("image.name=raymoe", r"image\.name: .*not pinned.*found 'raymoe'"),
        ("image.name=host:5000/raymoe", "not pinned"),
        ("image.name=raymoe:latest", "not pinned"),
        ('storage.claim="Shared Data"', r"storage\.claim: give the name of an object"),
        ("storage.mount=data", r"storage\.mount: give a path from the root, like /data"),
        ("storage.mount=/", r"storage\.mount: give a path from the root"),
        ('volumes=[{name="a", mount="/a"}]', r"volume a has no source; give one of claim, secret"),
        ('volumes=[{name="a", mount="/a", claim="c", secret="s"}]', "has claim and secret; give"),
        ('volumes=[{name="shm", mount="/a", claim="c"}]', "'shm' is no name for a volume"),
        ('volumes=[{name="a", mount="/data", claim="c"}]', "several volumes have the mount /data"),
        ('volumes=[{name="a", mount="b", claim="c"}]', "give a path from the root, like /data"),
        ("workers.devices={hca=1}", "hca = 1 is no device; give a name like rdma/hca"),
        ("job={keep_seconds=60, forget_seconds=5}", "forget_seconds is 5, before the pods go"),
        ("service.upgrade=incremental", "give both upgrade and gateway_class, or neither"),
        ("service.step_seconds=5", 'step_seconds is for upgrade = "incremental"; remove it'),
        (
            'service={upgrade="incremental", gateway_class="g"}',
            "moves pods from one cluster to the other by the autoscaler; set workers.autoscale",
        ),
        ("queue.priority=high", "priority is read by the queues of Kueue and Volcano"),
        ("queue.scheduler=volcano", "scheduler = 'volcano' without a name has no effect"),
        ("topology.unit=run", "unit has no effect without label"),
        ("topology.label=rack", "only Kueue knows which pods are a replica; give queue.name"),
        ("recovery.backend=redis", r'backend = "redis" needs redis_address'),
        ("recovery.rocksdb_gib=3", r'rocksdb_gib is for backend = "rocksdb"; remove it'),
        ("monitoring.grafana_iframe_host=x", "no effect without grafana_host; give both"),
        ("namespace=My_Space", "namespace: give lower-case letters"),
        ("head.cpus=0", r"head\.cpus: Input should be greater than 0; found 0"),
        ("driver.memory_gib=0.5", r"driver\.memory_gib: Input should be a valid integer"),
        ("workers.idle_seconds=5", "idle_seconds has no effect without autoscale = true"),
        ('workers.node_selectors.A100="x"', r"workers\.node_selectors\.A100: .*dictionary"),
        (
            'workers.tolerations=[{key="a", efect="NoExecute"}]',
            r"workers\.tolerations\.0\.efect: unknown key; did you mean effect\?",
        ),
        (
            'workers.tolerations=[{key="a b"}]',
            r"workers\.tolerations\.0: 'a b' is not a key of a taint",
        ),
        ("pods.grace_seconds=5", r"pods\.grace_seconds: Input should be greater than 5"),
        ('pods.labels={"raymoe/run"="x"}', "raymoe sets the labels raymoe/run itself"),
        ('pods.labels={"a b"="x"}', r"pods\.labels: 'a b' is no label key"),
        ('pods.labels={a="x y"}', r"pods\.labels: a = 'x y' is no label value"),
        ('pods.environment={"A-B"="x"}', "'A-B' is no variable name"),
        ('objects.annotations={"a b"="x"}', "'a b' is no annotation key"),
        ("service.upgrade=rolling", r"service\.upgrade: Input should be 'new-cluster', "),
    ],
)
def test_a_fault_is_named_with_its_key(tmp_path: Path, override: str, words: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[image]\nname = "a:1"\n[storage]\nclaim = "c"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        load_deployment(file, [override])
    assert str(caught.value).startswith(f"--set {override}: ")


def test_what_has_no_default_must_be_given(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    with pytest.raises(ConfigError, match="no deployment file at "):
        load_deployment(file)
    file.write_text("[image]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_deployment(file)
    assert "image.name: missing; the deployment file must give it" in str(caught.value)
    assert "storage: missing; the deployment file must give it" in str(caught.value)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "manifests" / "deployments").glob("*.toml")), ids=lambda file: file.stem
)
def test_every_deployment_file_of_the_repository_renders(file: Path) -> None:
    """A file that selects nodes by kind is rendered for a plan of those kinds."""
    options = load_deployment(file)
    kinds = list(options.workers.node_selectors) or ["cpu"]
    plan = two_stages((kinds[0], kinds[-1]))
    for render in (job, service):
        table = render(plan, options, file.stem)
        assert faults(table) == check([table]) == []
