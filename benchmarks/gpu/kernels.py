"""What a device ran, from torch's profiler: kernels and copies of a GPU, operators of a CPU."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.rows import Setting
from benchmarks.gpu.timing import finish

_KINDS = {
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "optimizer": ("adam", "multi_tensor"),
    "product": (
        "gemm",
        "nvjet",
        "cutlass",
        "cublas",
        "xmma",
        "grouped",
        "::mm",
        "addmm",
        "bmm",
        "linear",
    ),
    "copy and cast": ("memcpy", "memset", "copy", "fill", "catarray", "::cat", "::zero"),
    "sort and index": (
        "sort",
        "topk",
        "index",
        "gather",
        "scatter",
        "scan",
        "cumsum",
        "embedding",
        "searchsorted",
        "histogram",
    ),
    "norm, softmax, sum": ("norm", "softmax", "reduce", "::sum", "mean"),
    "elementwise": ("elementwise", "vectorized", "unrolled", "silu", "::mul", "::add"),
}
"""Kinds of work by words in the names of kernels (a GPU) and operators (a CPU); the first wins."""

OTHER = "other"


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel or copy on a GPU, or one operator on a CPU without those inside it."""

    name: str
    microseconds: float

    @property
    def kind(self) -> str:
        """What kind of work its name tells of."""
        name = self.name.lower()
        found = (kind for kind, words in _KINDS.items() if any(word in name for word in words))
        return next(found, OTHER)


def kernels(setting: Setting, work: Callable[[], object]) -> list[Kernel]:
    """Run a piece of work once and return all that the device ran of it."""
    activity = ProfilerActivity.CUDA if setting.cuda else ProfilerActivity.CPU
    finish(setting)
    with profile(activities=[activity]) as measured:
        work()
        finish(setting)
    events = measured.events() or ()
    if setting.cuda:
        ran = [event for event in events if event.device_type == DeviceType.CUDA]
        return [
            Kernel(event.name, event.time_range.elapsed_us())
            for event in ran
            if not getattr(event, "is_user_annotation", False)
        ]
    return [
        Kernel(event.name, event.self_cpu_time_total)
        for event in events
        if event.name.startswith(("aten::", "mkldnn::"))
    ]


def milliseconds_by_kind(found: Iterable[Kernel]) -> dict[str, float]:
    """Return the time of each kind of work, the longest first."""
    total: dict[str, float] = defaultdict(float)
    for kernel in found:
        total[kernel.kind] += kernel.microseconds / 1e3
    return dict(sorted(total.items(), key=lambda pair: -pair[1]))
