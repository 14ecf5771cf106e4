"""What a server measures, as Prometheus reads it, under vLLM's names so that its dashboards work.

Whoever knows a figure tells it here; nobody asks back. All methods may be called from any thread.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

Reason = Literal["stop", "length", "abort", "error"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 20, 40, 80, 160)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)


MOST_NAMES = 64
"""Adapters that have counts of their own; those that come later are counted together."""
OTHERS = "(others)"


class Telemetry:
    """The figures of one served model."""

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model
        self._counting = threading.Lock()
        self._told = 0, 0, 0
        gauge, count, times = self._gauge, self._counter, self._histogram
        self._running = gauge("num_requests_running", "Generations that run.")
        self._waiting = gauge("num_requests_waiting", "Generations that wait.")
        self._cache = gauge("kv_cache_usage_perc", "Used part of the cache, from 0 to 1.")
        self._queries = count("prefix_cache_queries", "Prompt tokens looked up in the cache.")
        self._hits = count("prefix_cache_hits", "Prompt tokens found in the cache.")
        self._preemptions = count("num_preemptions", "Generations put back into the queue.")
        self._prompt = count("prompt_tokens", "Prompt tokens of ended requests.")
        self._generated = count("generation_tokens", "Tokens generated.")
        self._prompts = times("request_prompt_tokens", "Prompt tokens of a request.", TOKENS)
        self._answers = times("request_generation_tokens", "Tokens of an answer.", TOKENS)
        self._first = times("time_to_first_token_seconds", "Arrival to first token.")
        self._between = times("inter_token_latency_seconds", "Between two tokens.")
        self._whole = times("e2e_request_latency_seconds", "Arrival to last token.")
        self._queue = times("request_queue_time_seconds", "Arrival to the first step.")
        self._adapters = gauge("adapters_loaded", "Adapters on the ranks.", "raymoe")
        self._adapter_bytes = gauge(
            "adapter_memory_bytes", "Memory of adapters on the rank with most.", "raymoe"
        )
        self._adapter_ends = Counter(
            "raymoe:adapter_requests",
            "Generations of an adapter that ended.",
            ("model_name", "adapter"),
            registry=self._registry,
        )
        self._adapter_names: set[str] = set()
        labels = ("model_name", "layer")
        self._expert_tokens = Counter(
            "raymoe:expert_tokens",
            "Tokens for which an expert was chosen.",
            (*labels, "expert"),
            registry=self._registry,
        )
        self._imbalance = Gauge(
            "raymoe:expert_imbalance",
            "Load of the rank with most experts' work, over an even share.",
            labels,
            registry=self._registry,
        )
        self._moves = count("expert_moves", "Times that experts changed their ranks.", "raymoe")
        self._ends = Counter(
            "vllm:request_success",
            "Generations that ended, by reason.",
            ("model_name", "finished_reason"),
            registry=self._registry,
        )

    def load(self, running: int, waiting: int, cache_used: float) -> None:
        """Say how many generations run and wait now, and which part of the cache is used."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._cache.set(cache_used)

    def totals(self, prompt_tokens: int, cached_tokens: int, preemptions: int) -> None:
        """Say what has been done so far: tokens of prompts, those of them that the cache had, and
        generations that were put back into the queue.
        """
        with self._counting:
            now = prompt_tokens, cached_tokens, preemptions
            counters = self._queries, self._hits, self._preemptions
            for counter, total, before in zip(counters, now, self._told, strict=True):
                counter.inc(total - before)
            self._told = now

    def queued(self, seconds: float) -> None:
        """Count the time from a generation's arrival to its first step."""
        self._queue.observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Count the time from a request's arrival to its first token."""
        self._first.observe(seconds)

    def tokens(self, count: int, seconds: float) -> None:
        """Count tokens that came together, ``seconds`` after those before."""
        for _ in range(count):
            self._between.observe(seconds / count)

    def ended(self, reason: Reason, prompt: int, generated: int, seconds: float) -> None:
        """Count a generation that ended ``seconds`` after its arrival, and its tokens."""
        self._ends.labels(self._model, reason).inc()
        self._prompt.inc(prompt)
        self._generated.inc(generated)
        self._prompts.observe(prompt)
        self._answers.observe(generated)
        self._whole.observe(seconds)

    def adapters(self, count: int, most_bytes: int) -> None:
        """Say how many adapters the ranks have, and the bytes of the rank with most."""
        self._adapters.set(count)
        self._adapter_bytes.set(most_bytes)

    def adapter_ended(self, name: str) -> None:
        """Count a generation of an adapter that ended."""
        with self._counting:
            if len(self._adapter_names) < MOST_NAMES:
                self._adapter_names.add(name)
            label = name if name in self._adapter_names else OTHERS
        self._adapter_ends.labels(self._model, label).inc()

    def experts(
        self, loads: Mapping[int, Sequence[int]], imbalances: Mapping[int, float], moved: bool
    ) -> None:
        """Say for how many tokens each expert was chosen by layer, how uneven that was for the
        ranks, and whether experts move for it.
        """
        for layer, load in loads.items():
            for expert, tokens in enumerate(load):
                self._expert_tokens.labels(self._model, layer, expert).inc(tokens)
            self._imbalance.labels(self._model, layer).set(imbalances[layer])
        self._moves.inc(moved)

    def text(self) -> bytes:
        """Return all figures in the text form of Prometheus."""
        return bytes(generate_latest(self._registry))

    def _gauge(self, name: str, said: str, whose: str = "vllm") -> Gauge:
        return Gauge(f"{whose}:{name}", said, ("model_name",), registry=self._registry).labels(
            self._model
        )

    def _counter(self, name: str, said: str, whose: str = "vllm") -> Counter:
        return Counter(f"{whose}:{name}", said, ("model_name",), registry=self._registry).labels(
            self._model
        )

    def _histogram(self, name: str, said: str, bounds: Sequence[float] = SECONDS) -> Histogram:
        return Histogram(
            f"vllm:{name}", said, ("model_name",), buckets=bounds, registry=self._registry
        ).labels(self._model)
