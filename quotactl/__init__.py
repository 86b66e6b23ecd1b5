"""Quota administration: who may have how much, and where every unit went."""

from quotactl._version import __version__

__all__ = ["__version__"]
