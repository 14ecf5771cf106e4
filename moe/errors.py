"""Every error that raymoe raises on purpose, as one class tree.

    RaymoeError                 the root; the command line prints these without a traceback
    ├── ConfigError             a run file, an option or a model configuration is wrong
    ├── CheckpointError         a model directory is missing, incomplete or not supported
    ├── DataError               text or token shards are missing or malformed
    ├── StorageError            a directory cannot be written where asked
    ├── PlanError               no plan exists for what was asked, or a plan contradicts the model
    ├── LaunchError             the cluster cannot hold the plan, or the actors did not start
    │   └── ClusterBusy         its resources suffice but are in use now; a retry may help
    ├── TrainingDiverged        a gradient is not finite; another step would ruin the weights
    ├── RankLost                an actor died or a neighbour's connection broke; a retry may help
    │   └── RankDied            the process of a rank has ended
    ├── RunStopped              a run has lost more than it is allowed to mend by itself
    ├── OutOfMemory             the memory of a rank does not suffice; nor would it for a retry
    ├── DeadlineExceeded        an actor did not answer in time; a retry may help
    ├── RequestError            a serving request that can never succeed (4xx)
    └── ClusterError            Ray or Kubernetes refused or could not be reached

Each takes one complete message (asked, found, what to change), so pickling between processes keeps
its type.
"""


class RaymoeError(Exception):
    """Root of the tree."""


class ConfigError(RaymoeError):
    """A run file, an option or a model configuration is wrong."""


class CheckpointError(RaymoeError):
    """A model directory is missing, incomplete or not supported."""


class DataError(RaymoeError):
    """Text or token shards are missing or malformed."""


class StorageError(RaymoeError):
    """A directory cannot be written where asked."""


class PlanError(RaymoeError):
    """No plan exists for what was asked, or a plan contradicts the model."""


class LaunchError(RaymoeError):
    """The cluster cannot hold the plan, or the actors did not start."""


class ClusterBusy(LaunchError):
    """The resources of the cluster suffice but are in use now; a retry may help."""


class TrainingDiverged(RaymoeError):
    """A gradient is not finite; another step would ruin the weights."""


class RankLost(RaymoeError):
    """An actor died or a neighbour's connection broke; a retry may help."""


class RankDied(RankLost):
    """The process of the named rank has ended; neighbours of such a rank raise RankLost."""


class RunStopped(RaymoeError):
    """A run has lost more than it is allowed to mend by itself."""


class OutOfMemory(RaymoeError):
    """The memory of a rank does not suffice; it would not suffice for another try either."""


class DeadlineExceeded(RaymoeError):
    """An actor did not answer in time; a retry may help."""


class RequestError(RaymoeError):
    """A serving request that can never succeed."""


class ClusterError(RaymoeError):
    """Ray or Kubernetes refused or could not be reached."""
