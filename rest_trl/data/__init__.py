"""Data sets of any supported schema, prepared as the `prompt` and `solution` columns that training reads."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .loading import load_rest_dataset, prepare_dataset

__all__ = ["load_rest_dataset", "prepare_dataset"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `datasets` takes seconds to import, and the command line needs only names of this package.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import loading

    return getattr(loading, name)
