"""Where the devices of a plan come from: a file, Ray, Kubernetes or a dump of its nodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from moe.errors import ConfigError
from moe.planning.devices.inventory import Inventory
from pipelines.commands.planning_arguments import at_least_one, devices_of, measured

if TYPE_CHECKING:
    from pipelines.planning.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Source:
    """One of four. ``threads`` cores of a node without GPUs make a device; None is 1."""

    inventory: Path | None = None
    ray: bool = False
    kubernetes: bool = False
    nodes: Path | None = None
    address: str = "local"
    context: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        given = [self.inventory is not None, self.ray, self.kubernetes, self.nodes is not None]
        if sum(given) != 1:
            raise ConfigError(
                "a plan is made for the devices of one source; give one of --inventory FILE, "
                "--ray, --kubernetes and --nodes FILE"
            )
        if self.context is not None and not self.kubernetes:
            raise ConfigError(f"--context {self.context} is for --kubernetes; give that too")
        if self.address != "local" and not self.ray:
            raise ConfigError(f"--address {self.address} is for --ray; give that too")
        if self.threads is not None and self.inventory is not None:
            raise ConfigError(
                f"--threads {self.threads} has no effect with --inventory, whose devices give "
                "their own threads; leave it out, or change the file"
            )
        at_least_one(threads=self.threads)

    def devices(self, profile: Path | None, wanted: "Wanted") -> Inventory:
        """Return what is there, with what a profile measured of it.

        Nodes of a Ray cluster measure what is ``wanted`` where no profile is given.
        """
        if self.inventory is not None:
            return devices_of(self.inventory, profile)
        if self.ray:
            return measured(self._ray(None if profile else wanted), profile)
        return measured(self._kubernetes(), profile)

    def _ray(self, wanted: "Wanted | None") -> Inventory:
        from cluster.nodes import cautions, inventory, left_out
        from cluster.probe import nodes_of_ray
        from cluster.session import session
        from pipelines.planning.probing import Findings, probed

        with session(self.address):
            nodes = nodes_of_ray()
            there = inventory(nodes, self.threads or 1)
            found = Findings() if wanted is None else probed(there, nodes, wanted)
        told = map(str, left_out(nodes, self.threads or 1))
        for line in (*told, *cautions(nodes), *found.notes):
            typer.echo(line, err=True)
        return found.applied(there, nodes)

    def _kubernetes(self) -> Inventory:
        from cluster.kube.api import Api
        from cluster.kube.connection import connect
        from cluster.kubernetes_nodes import inventory_of_nodes, left_out, load_nodes, read_nodes

        if self.nodes is None:
            nodes = read_nodes(Api(connect(self.context)))
        else:
            nodes = load_nodes(self.nodes)
        found = inventory_of_nodes(nodes, self.threads or 1)
        for each in left_out(nodes, self.threads or 1):
            typer.echo(str(each), err=True)
        return found
