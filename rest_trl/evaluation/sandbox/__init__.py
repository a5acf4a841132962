"""
A forked child that works without network, files and processes of its own, for code that evaluates model output.

Only the standard library is imported, and nothing of the package around: other environments load this folder by path.
"""

from .child import LEVELS, Limits, SandboxedChild, SandboxError, strongest_level


__all__ = ["LEVELS", "Limits", "SandboxError", "SandboxedChild", "strongest_level"]
