"""
A sandbox for code that evaluates model output: a forked child without network, writable files or other processes.

This folder imports only the standard library and nothing of `rest_trl`, because other environments load it by path.
"""

from .child import LEVELS, Limits, SandboxedChild, SandboxError, strongest_level


__all__ = ["LEVELS", "Limits", "SandboxError", "SandboxedChild", "strongest_level"]
