"""Messages that a program writes to the terminal besides its progress. This module imports nothing that is slow."""

import logging
import sys
import warnings

from tqdm.auto import tqdm


# When bitsandbytes is imported, it warns that its CPU kernel for 4-bit weights is missing. PEFT imports it in every
# run, even in one without such weights, and before the arguments are read.
_KERNELS = logging.getLogger("bitsandbytes.backends.cpu.ops")


class _Hold(logging.Filter):
    """Keeps records back until it is known whether they matter."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return False


_hold = _Hold()


def hold_kernels_warning() -> None:
    """Keep the warning of bitsandbytes back. A program calls this before anything imports PEFT."""
    _KERNELS.addFilter(_hold)


def release_kernels_warning(is_quantized: bool) -> None:
    """Emit what [`hold_kernels_warning`] has kept back if the run has 4-bit weights, and drop it otherwise."""
    _KERNELS.removeFilter(_hold)
    if is_quantized:
        for record in _hold.records:
            _KERNELS.handle(record)
    _hold.records.clear()


hold_kernels_warning()  # at import, because a program imports this module before PEFT


class _Formatter(logging.Formatter):
    """Level and message, with the rank where there are several."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if text.startswith("[RANK 0] "):  # accelerate always adds it
            from accelerate import PartialState

            if PartialState().num_processes == 1:
                text = text.removeprefix("[RANK 0] ")
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


class _Once(logging.Filter):
    """Lets the client of the Hub say once why it fails, and not again at each try."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("huggingface_hub"):
            return True
        cause = record.getMessage().partition(" thrown while requesting ")[0]
        is_new = cause not in self._said and not cause.startswith("Retrying in ")
        self._said.add(cause)
        return is_new


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
        handler.addFilter(_Once())
        logging.getLogger().addHandler(handler)
    # Whatever the recipe says, TRL 1.16 sets an argument by a name that newer releases of Transformers deprecate.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    if not sys.stderr.isatty():
        import datasets
        import transformers

        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
