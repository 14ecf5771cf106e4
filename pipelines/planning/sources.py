"""Where the devices of a plan come from: a file, Ray, Kubernetes or a dump of its nodes."""

from dataclasses import dataclass
from pathlib import Path

from moe.errors import ConfigError
from moe.planning.devices.inventory import Inventory
from pipelines.planning.arguments import devices_of, measured
from pipelines.screen.terminal import say


@dataclass(frozen=True, slots=True)
class Source:
    """One of four, and how devices without GPUs are cut: into so many threads each."""

    inventory: Path | None = None
    ray: bool = False
    kubernetes: bool = False
    nodes: Path | None = None
    address: str = "local"
    context: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        given = [self.inventory is not None, self.ray, self.kubernetes, self.nodes is not None]
        if sum(given) != 1:
            raise ConfigError(
                "give either --ray or --inventory FILE, or --kubernetes or --nodes FILE: a plan "
                "is made for devices of one source"
            )
        if self.context is not None and not self.kubernetes:
            raise ConfigError(f"--context {self.context} is for --kubernetes; give that too")

    def devices(self, profile: Path | None) -> Inventory:
        """Return what is there, with what a profile measured of it."""
        if self.inventory is not None:
            return devices_of(self.inventory, profile)
        return measured(self._ray() if self.ray else self._kubernetes(), profile)

    def _ray(self) -> Inventory:
        from cluster.probe import probe
        from cluster.session import session

        with session(self.address):
            return probe(self.threads)

    def _kubernetes(self) -> Inventory:
        from cluster.kubernetes_nodes import inventory_of_nodes, left_out, load_nodes, read_nodes

        nodes = read_nodes(self.context) if self.nodes is None else load_nodes(self.nodes)
        found = inventory_of_nodes(nodes, self.threads)
        for each in left_out(nodes, self.threads):
            say(f"left out node {each.node}: {each.reason}")
        return found
