"""LoRA adapters in the directory format of ``peft``.

    start     an adapter as what a run begins with
    writing   an adapter of what a run has trained
    saved     what a run with LoRA has trained, in its checkpoint
    files     an adapter's matrices, by the groups of weights that they add to
    ours      where in an adapter the factors lie that a run trains
    placing   which tensors of the file add to which weights
    settings  ``adapter_config.json``: ranks and scales, and what is refused

A module imports only from modules on lower lines.
"""
