"""The figures of a server that dashboard and alerts use; vLLM's names, on the server's own port."""

from typing import NamedTuple


class Figure(NamedTuple):
    """What a panel shows of a server: its title, its unit in Grafana, and queries by legend."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


MODEL = "model_name"
"""The tag that all figures of a server have."""

WAITING = "vllm:num_requests_waiting"
ENDED = "vllm:request_success_total"


def _rate(counter: str) -> str:
    return f'sum by ({MODEL}) (rate({counter}{{{MODEL}=~"$model"}}[$__rate_interval]))'


def _now(gauge: str) -> str:
    return f'max by ({MODEL}) ({gauge}{{{MODEL}=~"$model"}})'


def _quantiles(histogram: str) -> tuple[tuple[str, str], ...]:
    rate = f'rate({histogram}_bucket{{{MODEL}=~"$model"}}[$__rate_interval])'
    return tuple(
        (f"{{{{{MODEL}}}}} p{q * 100:g}", f"histogram_quantile({q}, sum by ({MODEL}, le) ({rate}))")
        for q in (0.5, 0.95)
    )


FIGURES = (
    Figure(
        "Generations",
        "short",
        (
            ("{{model_name}} running", _now("vllm:num_requests_running")),
            ("{{model_name}} waiting", _now(WAITING)),
        ),
    ),
    Figure(
        "Memory of keys and values in use",
        "percentunit",
        (("{{model_name}}", _now("vllm:kv_cache_usage_perc")),),
    ),
    Figure("Time to first token", "s", _quantiles("vllm:time_to_first_token_seconds")),
    Figure("Time between tokens", "s", _quantiles("vllm:inter_token_latency_seconds")),
    Figure("Time in the queue", "s", _quantiles("vllm:request_queue_time_seconds")),
    Figure(
        "Tokens a second",
        "short",
        (
            ("{{model_name}} prompts", _rate("vllm:prompt_tokens_total")),
            ("{{model_name}} generated", _rate("vllm:generation_tokens_total")),
        ),
    ),
)
