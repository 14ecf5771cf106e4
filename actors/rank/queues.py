"""Which commands of a rank wait for each other.

Each queue has threads of its own. Whatever carries the commands, Ray's concurrency groups or pipes,
keeps to this table.
"""

COMMANDS, CONTROL, FILES, COPIES = "commands", "control", "files", "copies"
ADAPTERS = "adapters"
"""Threads of their own: what is read for later batches, in the order in which it was asked for."""

THREADS = {CONTROL: 2, FILES: 1, COPIES: 1, ADAPTERS: 1}
"""Threads of the queues beside ``COMMANDS``, which has one: its commands run in their order."""

QUEUES = {
    "status": CONTROL,
    "built_as": CONTROL,
    "silence": CONTROL,
    "abort": CONTROL,
    "write": FILES,
    "exchange_copies": COPIES,
    "adopt": ADAPTERS,
    "fetch_experts": ADAPTERS,
}
"""Commands that are answered while others run; every other is in ``COMMANDS``."""
