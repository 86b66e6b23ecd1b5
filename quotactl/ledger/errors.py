"""Kept under its old path while callers move to `quotactl.errors`."""

from quotactl.errors import *  # noqa: F403
