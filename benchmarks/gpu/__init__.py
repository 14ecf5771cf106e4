"""The parts of ``benchmarks.gpu_check``: each runs in a process of its own, on one GPU or a CPU."""
