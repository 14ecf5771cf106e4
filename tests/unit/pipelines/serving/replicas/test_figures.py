"""The figures of several replicas in one text, which Prometheus' own parser reads."""

from prometheus_client.parser import text_string_to_metric_families

from pipelines.serving.replicas.figures import Figures, together
from pipelines.serving.telemetry import Telemetry


def test_every_sample_of_every_replica_is_there_once() -> None:
    figures = []
    for number, name in enumerate(("a", "b")):
        telemetry = Telemetry("tiny")
        telemetry.load(number + 1, 0, 0.5)
        telemetry.ended("stop", 3, 4 + number, 1.5)
        figures.append(Figures(name, telemetry.text().decode()))
    families = list(text_string_to_metric_families(together(figures).decode()))
    assert len({family.name for family in families}) == len(families)
    found = {
        (sample.name, sample.labels.pop("replica"), *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    for each in figures:
        own = [s for f in text_string_to_metric_families(each.text) for s in f.samples]
        for sample in own:
            assert found[sample.name, each.replica, *sorted(sample.labels.items())] == sample.value
    assert found["vllm:num_requests_running", "b", ("model_name", "tiny")] == 2


def test_no_replica_has_no_figures() -> None:
    assert together([]) == b""
