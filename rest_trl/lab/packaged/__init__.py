"""A language model and real tools that packages on PyPI bring, for machines without a GPU or a hub."""

import os
from pathlib import Path


SMOLLM2 = "smollm2"
BFCL_SINGLE = "bfcl/single"
TRAINED_ON_BFCL = "trained-on-bfcl"  # tag in the card of a model that was trained on questions of BFCL
STAMP = "requirements.txt"  # written last into an environment of BFCL, so it marks it as finished


def cache_dir() -> Path:
    """The folder of what is made once: `REST_TRL_CACHE` if it is set, else `rest-trl` in the user's cache."""
    if "REST_TRL_CACHE" in os.environ:
        return Path(os.environ["REST_TRL_CACHE"]).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "rest-trl"
