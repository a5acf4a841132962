"""The chat templates that TRL ships, and tokenizers that have nothing but a template and added tokens."""

from pathlib import Path

import trl
from cases import Template, load_syntaxes
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast


TEMPLATES = {path.stem: path.read_text() for path in Path(trl.__file__).parent.glob("chat_templates/*.jinja")}

# Muse Glimmer's calls are written in none of our syntaxes. All other templates without one show no calls.
CALLS_OF_NO_SYNTAX = {"muse_glimmer"}


def template_of(file: str) -> tuple[str | None, Template | None]:
    """The syntax that a template of TRL shows, if any, and what is known of the template."""
    templates = {template.name: (name, template) for name, s in load_syntaxes().items() for template in s.templates}
    return templates.get(file) or templates.get(file.removesuffix("_training")) or (None, None)


def syntax_of_template(file: str) -> str | None:
    """Name of the syntax that a template of TRL shows, if any."""
    return template_of(file)[0]


def tokenizer_with(chat_template, tokens=()) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.add_special_tokens(list(tokens))
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=chat_template)
