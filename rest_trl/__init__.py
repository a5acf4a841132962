"""ResT: reshaped token-level policy gradients for tool-calling LLMs, on top of TRL (arXiv 2509.21826)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .tool_calls import Part, Region


if TYPE_CHECKING:
    from .config import ResTGRPOConfig
    from .regions import CoefficientsFunc, partition
    from .trainer import ResTGRPOTrainer

__version__ = "0.1.0"

__all__ = [
    "CoefficientsFunc",
    "Part",
    "Region",
    "ResTGRPOConfig",
    "ResTGRPOTrainer",
    "__version__",
    "partition",
]

_MODULES = {
    "CoefficientsFunc": ".regions",
    "ResTGRPOConfig": ".config",
    "ResTGRPOTrainer": ".trainer",
    "partition": ".regions",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: TRL and torch take seconds to import, and parsing needs neither.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
