"""What Ray Serve is told of the deployments of an application."""

import warnings
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from moe.planning.devices.labels import for_ray
from pipelines.serving.arguments import AnyArguments, ServeArguments
from pipelines.serving.http.api import CLOSE_SECONDS

SPARE_REQUESTS = 64
"""Requests that a replica accepts beyond its queue: for models and health, and requests to
refuse.
"""

REPORT_SECONDS = 1.0
"""How often replicas say how much waits, and fronts whether they wait for a replica."""

ROUTER = "pipelines.serving.replicas.router.PrefixRouter"
POLICY = "pipelines.serving.replicas.scaling:TokensWaiting"

Options = dict[str, Any]


def replica_options(arguments: AnyArguments) -> Options:
    """Return the options of the replicas. Their ranks reserve cores and GPUs; they do not."""
    options = _light("server", arguments) | {
        "max_ongoing_requests": arguments.limits.held + SPARE_REQUESTS,
        "max_constructor_retry_count": 1,
        "graceful_shutdown_timeout_s": arguments.drain_seconds + CLOSE_SECONDS,
    }
    if not isinstance(arguments, ServeArguments) or not arguments.several:
        return options
    least = max(arguments.replicas, 1)
    options |= {
        "max_queued_requests": arguments.limits.held,
        "max_surge_percent": -(-100 * arguments.surge // least),
        "graceful_shutdown_wait_loop_s": 0.5,
    }
    if arguments.routing == "prefix":
        options["request_router_config"] = {
            "request_router_class": ROUTER,
            "request_router_kwargs": {"slack": max(1, arguments.running // 4)},
        }
    if arguments.max_replicas is None:
        return options | {"num_replicas": arguments.replicas}
    return options | {"autoscaling_config": _scaling(arguments, arguments.max_replicas)}


def front_options(arguments: ServeArguments) -> Options:
    """Return the options of the front, which holds every request until it is answered."""
    each = arguments.limits.held + SPARE_REQUESTS
    return _light("front", arguments) | {
        "max_ongoing_requests": (arguments.most + 1) * each,
        "max_surge_percent": 100,
        "graceful_shutdown_timeout_s": arguments.drain_seconds + CLOSE_SECONDS,
    }


def _light(name: str, arguments: AnyArguments) -> Options:
    actor: Options = {"num_cpus": 0}
    if arguments.driver_labels:
        actor["label_selector"] = for_ray(arguments.driver_labels.items())
    return {"name": name, "ray_actor_options": actor}


def _scaling(arguments: ServeArguments, most: int) -> AutoscalingConfig:
    with warnings.catch_warnings():
        # Ray would have an environment variable of each process instead.
        warnings.filterwarnings("ignore", "The `metrics_interval_s` field", DeprecationWarning)
        policy = AutoscalingPolicy(  # type: ignore[no-untyped-call]
            policy_function=POLICY, policy_kwargs={"tokens": arguments.waiting_tokens}
        )
        return AutoscalingConfig(
            min_replicas=arguments.replicas,
            initial_replicas=max(arguments.replicas, 1),
            max_replicas=most,
            upscale_delay_s=arguments.upscale_seconds,
            downscale_delay_s=arguments.downscale_seconds,
            metrics_interval_s=REPORT_SECONDS,
            look_back_period_s=2 * REPORT_SECONDS,
            policy=policy,
        )
