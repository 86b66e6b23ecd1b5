"""The version, in a file of its own: the build reads it, and `--version` needs nothing else."""

__version__ = "0.1.0"
