"""Every error raymoe raises on purpose, in one tree.

    RaymoeError                 the root; the command line prints these without a traceback
    ├── ConfigError             a run file, an option or a model configuration is wrong
    ├── CheckpointError         a model directory is missing, incomplete or not supported
    ├── DataError               text or token shards are missing or malformed
    ├── StorageError            a directory cannot be written where asked
    ├── PlanError               no plan exists for what was asked, or a plan contradicts the model
    ├── LaunchError             the cluster cannot hold the plan, or the actors did not start
    │   └── ClusterBusy         it could hold the plan, but others use it now; a retry may help
    ├── TrainingDiverged        a gradient is not finite; going on would ruin the weights
    ├── RankLost                an actor died or a neighbour's connection broke; a retry may help
    │   └── RankDied            the process of the rank that is named has ended
    ├── DeadlineExceeded        an actor did not answer in time; a retry may help
    ├── RequestError            a serving request that can never succeed (4xx)
    └── ClusterError            Ray or Kubernetes refused or could not be reached

Each takes one finished sentence (asked, found, what to change), so it survives pickling between
processes as the type it is.
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
    """The cluster could hold the plan, but others use it now; a retry may help."""


class TrainingDiverged(RaymoeError):
    """A gradient is not finite; going on would ruin the weights."""


class RankLost(RaymoeError):
    """An actor died or a neighbour's connection broke; a retry may help."""


class RankDied(RankLost):
    """The process of a rank has ended; its neighbours only noticed."""


class DeadlineExceeded(RaymoeError):
    """An actor did not answer in time; a retry may help."""


class RequestError(RaymoeError):
    """A serving request that can never succeed."""


class ClusterError(RaymoeError):
    """Ray or Kubernetes refused or could not be reached."""
