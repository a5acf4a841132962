"""
API-Bank (https://huggingface.co/papers/2304.08244) as ToolRL processed it and the paper evaluates on it.

The data consists of three files `level-{1,2,3}-api_processed.json` with 399, 67 and 131 samples. Each sample asks for
one call. In six of the samples of level 2, the prompt does not show the gold tool.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

from .benchmark import Sample
from .bfcl.prompts import RENDERING_ERRORS
from .generation import Tokenizer


LEVELS = (1, 2, 3)
PROMPT_FORMS = ("paper", "native")

# JSON Schemas of the types that the data gives to the parameters of tools.
_SCHEMAS: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "list": {"type": "array"},
    "list(str)": {"type": "array", "items": {"type": "string"}},
}
_TOOL = re.compile(
    r"^\d+\. (?:Name: (?P<name>\w+)\nDescription: (?P<description>.*?)|(?P<name3>\w+): (?P<description3>.*?))"
    r"\nParameters: (?P<parameters>\{.*?\})$",
    re.MULTILINE | re.DOTALL,
)
_TURN = re.compile(r"<(user|response|tool_call|obs)>(.*?)</\1>", re.DOTALL)


def load_samples(
    data: str, tokenizer: Tokenizer, prompt_form: str = "paper", chat_template_kwargs: dict[str, Any] | None = None
) -> list[Sample]:
    """
    Load all samples, from a folder or a data set of the Hub with the three files, and render their prompts for a
    model.

    In the form `"paper"` the system and user messages are used as they are in the data: they write tools and history
    out as text and ask for calls in the syntax `rlla`. In the form `"native"` the history becomes messages and the
    tools become schemas, which the chat template renders in the model's way. Ids are those of the released code
    (`Level1_0`). `gold` holds `name` and `parameters` of the gold call, and in `types` the declared JSON type of each
    parameter.
    """
    if prompt_form not in PROMPT_FORMS:
        raise ValueError(f"unknown prompt form {prompt_form!r}: choose one of {', '.join(PROMPT_FORMS)}")
    template_kwargs = chat_template_kwargs or {}
    if tokenizer.chat_template is None and "chat_template" not in template_kwargs:
        raise ValueError(
            "the tokenizer has no chat template, with which API-Bank's prompts are rendered: give one with "
            "--chat_template_kwargs '{\"chat_template\": ...}'"
        )
    samples = []
    for level, rows in _read(data).items():
        for index, row in enumerate(rows):
            id = f"Level{level}_{index}"
            try:
                gold, messages, tools, source = _read_row(row, prompt_form)
            except (AttributeError, LookupError, TypeError, ValueError, SyntaxError) as error:
                raise ValueError(f"{id} is not an API-Bank sample as processed by ToolRL: {error!r}") from error
            try:
                prompt: Any = tokenizer.apply_chat_template(
                    messages, tools=tools, tokenize=False, add_generation_prompt=True, **template_kwargs
                )
            except RENDERING_ERRORS as error:
                raise ValueError(
                    f"the chat template cannot render {id} in the {prompt_form} form ({type(error).__name__}: "
                    f"{error}): use the other form, or another template with --chat_template_kwargs "
                    "'{\"chat_template\": ...}'"
                ) from error
            samples.append(Sample(id, f"level-{level}", f"level-{level}/{source}", prompt, gold))
    return samples


def _read(data: str) -> dict[int, list[dict[str, Any]]]:
    folder = Path(data).expanduser()
    if not folder.is_dir():
        if data.startswith((".", "~", "/")) or data.count("/") != 1:
            raise FileNotFoundError(f"there is no folder {data}")
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(data, repo_type="dataset", allow_patterns="*level-*-api_processed.json"))
    rows = {}
    for level in LEVELS:
        name = f"level-{level}-api_processed.json"
        found = sorted(folder.rglob(name))
        if len(found) != 1:
            raise FileNotFoundError(f"{data} must hold one file {name}, and holds {len(found)}")
        try:
            rows[level] = json.loads(found[0].read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{found[0]} is not JSON: {error}") from error
    return rows


def _read_row(row: dict[str, Any], prompt_form: str) -> tuple[dict[str, Any], list[Any], list[Any] | None, Any]:
    """The gold call of a sample, its messages, its tools where they are not in the messages, and its dialogue."""
    answer = row["answer"][0] if isinstance(row["answer"], list) else row["answer"]
    tools = tool_schemas(row["system"])
    gold = {"name": answer["name"], "parameters": answer["parameters"], "types": {}}
    for tool in tools:
        if tool["function"]["name"] == answer["name"]:
            properties = tool["function"]["parameters"]["properties"]
            gold["types"] = {name: schema["type"] for name, schema in properties.items()}
    source = row["other"].get("file", row["other"].get("sample_id"))
    if prompt_form == "paper":
        messages = [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["user"]}]
        return gold, messages, None, source
    return gold, history_messages(row["system"], row["user"]), tools, source


def tool_schemas(system: str) -> list[dict[str, Any]]:
    """
    The tools that a sample's system prompt lists, as function schemas.

    Level 3 writes `1. Tool: what it does`, the others `1. Name: Tool` and a description. The schemas name no required
    parameters, because the data does not.
    """
    listed = system.partition("**Available Tools**")[2].partition("**Steps for Each Turn**")[0]
    tools = []
    for match in _TOOL.finditer(listed):
        parameters = ast.literal_eval(match["parameters"])
        properties = {
            name: {**_SCHEMAS[parameter["type"]], "description": parameter["description"]}
            for name, parameter in parameters.items()
        }
        function = {
            "name": match["name"] or match["name3"],
            "description": match["description"] or match["description3"],
            "parameters": {"type": "object", "properties": properties},
        }
        tools.append({"type": "function", "function": function})
    return tools


def history_messages(system: str, user: str) -> list[dict[str, Any]]:
    """
    A sample as messages, for chat templates that know tools.

    Of the system prompt only the first paragraph is kept, because the rest lists the tools and the paper's syntax. The
    user prompt holds the whole history.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": system.partition("\n\n")[0]}]
    for match in _TURN.finditer(user):
        kind, content = match[1], match[2].strip()
        if kind == "user":
            messages.append({"role": "user", "content": content})
        elif kind == "obs":
            messages.append({"role": "tool", "content": content})
        else:
            # What the assistant says before a call is part of the same turn as the call.
            if messages[-1]["role"] != "assistant" or (kind == "response" or "tool_calls" in messages[-1]):
                messages.append({"role": "assistant", "content": ""})
            if kind == "response":
                messages[-1]["content"] = content
            else:
                calls = [json.loads(line) for line in content.splitlines() if line.strip()]
                messages[-1]["tool_calls"] = [
                    {"type": "function", "function": {"name": call["name"], "arguments": call["parameters"]}}
                    for call in calls
                ]
    return messages
