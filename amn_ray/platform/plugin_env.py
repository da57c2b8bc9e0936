"""Plug-ins on the nodes of a cluster: Ray ships the named ones; others must be installed there."""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Sequence
from typing import Any

from amn_ray.core import plugins


def runtime_env(taken: Collection[str]) -> dict[str, Any]:
    """The part of Ray's runtime environment that ships the named plug-ins to all nodes.

    Args:
        taken: keys of the job's own runtime environment, which must not be set again; a job that ships modules itself
            must also ship its plug-ins.
    """
    paths = dict.fromkeys(str(plugins.place(name)) for name in plugins.named())
    return {"py_modules": list(paths)} if paths and "py_modules" not in taken else {}


def environment() -> dict[str, str]:
    """The environment variables that name the plug-ins to processes on other nodes."""
    return {plugins.NAMED: os.environ[plugins.NAMED]} if plugins.named() else {}


def not_importable(names: Sequence[str]) -> str | None:
    """Why this node cannot import a module, as words to follow the node's name; None if it can import all."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # any exception: it is third-party code
            return (
                f"cannot import the plug-in {name} ({type(error).__name__}: {' '.join(str(error).split())}); install "
                "there what it needs, or leave it out"
            )
    return None
