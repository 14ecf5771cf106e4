"""LoRA adapters in the directory format of ``peft``.

    files     an adapter's matrices, by the groups of weights that they add to
    placing   which tensors of the file add to which weights
    settings  ``adapter_config.json``: ranks and scales, and what is refused

A module imports only from modules on lower lines.
"""
