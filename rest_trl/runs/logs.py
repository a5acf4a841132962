"""Messages that the training program writes to the terminal besides its progress."""

import logging
import sys
import warnings

import datasets
import transformers
from accelerate import PartialState
from tqdm.auto import tqdm

from .kernels import hold_kernels_warning


hold_kernels_warning()  # at import, because a program imports this module before PEFT


class _Formatter(logging.Formatter):
    """Level and message, with the rank where there are several."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        alone = text.startswith("[RANK 0] ") and PartialState().num_processes == 1  # accelerate always adds it
        text = text.removeprefix("[RANK 0] ") if alone else text
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


class _Handler(logging.Handler):
    """Writes to stderr, above a progress bar instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def configure_logging() -> None:
    """
    Let the program write its messages to stderr, and hide the bars of loading and saving where there is no terminal.

    If the root logger already has a handler, that handler takes the messages. A warning of Transformers that concerns
    the code of TRL, and not its users, is hidden.
    """
    logging.getLogger("rest_trl").setLevel(logging.INFO)
    if not logging.getLogger().handlers:
        handler = _Handler()
        handler.setFormatter(_Formatter())
        logging.getLogger().addHandler(handler)
    # Whatever the recipe says, TRL 1.16 sets an argument by a name that newer releases of Transformers deprecate.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
