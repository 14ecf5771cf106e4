"""Figures that the scheduler tells, in the text that Prometheus reads."""

from prometheus_client.parser import text_string_to_metric_families

from pipelines.serving.telemetry import MOST_NAMES, OTHERS, Telemetry


def figures(telemetry: Telemetry) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(telemetry.text().decode())
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def test_every_figure_is_read_back() -> None:
    telemetry = Telemetry("tiny")
    telemetry.load(3, 2, 0.25)
    telemetry.totals(60, 10, 1)
    telemetry.totals(100, 40, 1)
    telemetry.queued(1.5)
    telemetry.first_token(0.5)
    telemetry.tokens(4, 2.0)
    telemetry.ended("stop", 100, 5, 4.0)
    found = figures(telemetry)
    for name, value in {
        "num_requests_running": 3,
        "num_requests_waiting": 2,
        "kv_cache_usage_perc": 0.25,
        "prefix_cache_queries_total": 100,
        "prefix_cache_hits_total": 40,
        "num_preemptions_total": 1,
        "request_queue_time_seconds_sum": 1.5,
        "time_to_first_token_seconds_sum": 0.5,
        "inter_token_latency_seconds_count": 4,
        "inter_token_latency_seconds_sum": 2.0,
        "e2e_request_latency_seconds_sum": 4.0,
        "request_success_total": 1,
        "prompt_tokens_total": 100,
        "generation_tokens_total": 5,
        "request_generation_tokens_sum": 5,
    }.items():
        assert found[f"vllm:{name}"] == value


def test_models_in_one_process_do_not_mix() -> None:
    one, other = Telemetry("one"), Telemetry("other")
    one.totals(0, 0, 1)
    assert figures(other)["vllm:num_preemptions_total"] == 0


def test_adapters_have_counts_of_their_own_up_to_a_bound() -> None:
    telemetry = Telemetry("tiny")
    for number in range(MOST_NAMES + 3):
        telemetry.adapter_ended(f"a{number}")
    telemetry.adapter_ended("a0")
    (family,) = (
        each
        for each in text_string_to_metric_families(telemetry.text().decode())
        if each.name == "raymoe:adapter_requests"
    )
    found = {
        each.labels["adapter"]: each.value
        for each in family.samples
        if each.name.endswith("_total")
    }
    assert len(found) == MOST_NAMES + 1
    assert (found["a0"], found["a1"], found[OTHERS]) == (2, 1, 3)
