"""Call the libraries that load models: in silence, and with a reason for what they cannot read."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator

from ..errors import EdgewiseError, ModelNotFound, out_of_memory


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drop the bars and notices of transformers, PEFT and tqdm inside the block; errors stay."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def explained(what: str, accepted: str = "") -> Iterator[None]:
    """Silence libraries inside the block; say `what` cannot be done, why, and what is accepted."""
    try:
        with silenced():
            yield
    except EdgewiseError:
        raise
    except Exception as error:  # whatever the libraries make of damaged files
        message = f"{what}: {one_line(error)} {accepted}".rstrip()
        raise out_of_memory(error) or ModelNotFound(message) from error


def one_line(error: BaseException, limit: int = 300) -> str:
    """Shorten another library's error message to one line that ends in a period."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "weights_only" in text:  # torch's advice would be to run the code
        wanted = re.search(r"\bGLOBAL (\S+)", text)
        what = f" but asks for {wanted[1]}" if wanted else ""
        text = f"The pickle does not hold tensors only{what}; a pickle's code is never run."
    text = text if len(text) <= limit else text[:limit].rstrip() + " …"
    return text if text.endswith((".", "!", "…")) else text + "."
