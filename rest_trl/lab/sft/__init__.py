"""Supervised fine-tuning with a weight per region of the gold completion: SFT, TSFT and RSFT."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .config import ResTSFTConfig
    from .program import main, make_parser, make_trainer
    from .trainer import ResTSFTTrainer

__all__ = ["ResTSFTConfig", "ResTSFTTrainer", "main", "make_parser", "make_trainer"]

_MODULES = {
    "ResTSFTConfig": ".config",
    "ResTSFTTrainer": ".trainer",
    "main": ".program",
    "make_parser": ".program",
    "make_trainer": ".program",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: the program has to prepare the logs before anything that it imports loads TRL.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
