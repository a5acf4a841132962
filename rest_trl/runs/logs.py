"""What the training program writes to the terminal beside its progress."""

import logging
import sys

import datasets
import transformers
from accelerate import PartialState
from tqdm.auto import tqdm


# At its import bitsandbytes warns that a kernel for 4-bit weights on CPUs is missing. PEFT imports it in every run,
# also in one without such weights, and before the arguments are read.
_KERNELS_LOGGER = logging.getLogger("bitsandbytes.backends.cpu.ops")


class _Hold(logging.Filter):
    """Keeps records back until it is known whether they matter."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return False


_hold = _Hold()
_KERNELS_LOGGER.addFilter(_hold)  # with this module, so that the program can import it before PEFT


class _Formatter(logging.Formatter):
    """Level and message, with the rank where there are several."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        alone = text.startswith("[RANK 0] ") and PartialState().num_processes == 1  # accelerate writes it always
        text = text.removeprefix("[RANK 0] ") if alone else text
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


class _Handler(logging.Handler):
    """Writes to stderr, above a progress bar instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def release_kernels_warning(is_quantized: bool) -> None:
    """
    Say what [`hold_kernels_warning`] has kept back, if the run uses it.

    Args:
        is_quantized (`bool`):
            Whether the run has 4-bit weights; otherwise the kernel is not used.
    """
    _KERNELS_LOGGER.removeFilter(_hold)
    if is_quantized:
        for record in _hold.records:
            _KERNELS_LOGGER.handle(record)
    _hold.records.clear()


def configure_logging() -> None:
    """
    Let the program write its own messages to stderr, and no bars of loading and saving where there is no terminal.

    A handler that the root logger already has is kept, and takes the messages.
    """
    logging.getLogger("rest_trl").setLevel(logging.INFO)
    if not logging.getLogger().handlers:
        handler = _Handler()
        handler.setFormatter(_Formatter())
        logging.getLogger().addHandler(handler)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
