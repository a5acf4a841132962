"""Reads rows from local files, a directory of files, the Hub, or a data set in memory."""

import csv
import json
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
from datasets import Dataset, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError

from ..tool_calls.declared import drop_null_keys
from .messages import MalformedRowError, Row


JSON_SUFFIXES = (".json", ".jsonl")
PARQUET_SUFFIX = ".parquet"
CSV_SUFFIX = ".csv"
SUFFIXES = (*JSON_SUFFIXES, PARQUET_SUFFIX, CSV_SUFFIX)


@dataclass(frozen=True)
class Source:
    """The rows of one file or data set."""

    name: str  # for reports
    columns: Collection[str]  # that at least one row has
    rows: Dataset | list[Any]  # a row that cannot be read is replaced by the `MalformedRowError` that says why
    padded: bool  # whether the rows come from an Arrow table, which pads missing keys with null

    def row(self, raw: Any) -> Row:
        """Turn one of the rows into a dictionary without padding."""
        if isinstance(raw, MalformedRowError):
            raise raw
        if not isinstance(raw, dict):
            raise MalformedRowError(f"it is a {type(raw).__name__}, not an object")
        return drop_null_keys(raw) if self.padded else raw


def dataset_source(dataset: Dataset, name: str) -> Source:
    """Take the rows of a data set in memory."""
    return Source(name, dataset.column_names, dataset, padded=True)


def open_sources(dataset_name: str, split: str, config: str | None) -> list[Source]:
    """
    Open a local file, a local directory (one source per file), `bfcl/single`, or a data set of the Hub; an existing
    path wins.
    """
    path = Path(dataset_name).expanduser()
    if path.is_dir():
        return [
            _file_source(file, str(file.relative_to(path.resolve()))) for file in _files_of_split(path, split, config)
        ]
    if path.is_file():
        if split != "train" or config is not None:
            raise ValueError(
                f"{path} is a single file: it has the split 'train' and no configurations, but split {split!r} and "
                f"configuration {config!r} were asked for. Put the files of several splits into one directory, named "
                "train.jsonl, test.jsonl, ..., and give that."
            )
        return [_file_source(path, path.name)]
    if dataset_name == "bfcl/single":
        return [_bfcl_source(dataset_name, split, config)]
    # A Hub id has at most one slash and none of these suffixes.
    if path.suffix in SUFFIXES or dataset_name.startswith((".", "~", "/")) or len(path.parts) > 2:
        raise FileNotFoundError(f"There is no file or directory {dataset_name}: check the path.")
    try:
        dataset = load_dataset(dataset_name, config, split=split)
    except ConnectionError as error:
        raise ConnectionError(
            f"There is no file or directory {dataset_name}, and the Hub cannot be reached for a data set of this name "
            f"({error}): check the path or the network"
        ) from error
    return [dataset_source(dataset, f"{dataset_name}/{split}")]


def _bfcl_source(name: str, split: str, config: str | None) -> Source:
    from ..lab.packaged.bfcl_single import bfcl_rows

    rows = bfcl_rows(split, config)
    return Source(f"{name}/{split}", list(rows[0]), rows, padded=False)


def _files_of_split(directory: Path, split: str, config: str | None) -> list[Path]:
    """Find the files of a split by the rules of `datasets` (file names, or the header of a README.md)."""
    # The path is made absolute, because `datasets` may take a relative one like "data/tools" for a Hub id.
    directory = directory.resolve()
    data_files = load_dataset_builder(str(directory), config).config.data_files
    listed = {file for files in data_files.values() for file in files}
    left_out = [file.name for file in directory.iterdir() if file.suffix in SUFFIXES and str(file) not in listed]
    if left_out and not (directory / "README.md").exists():
        raise ValueError(
            f"{directory} holds files of several types, of which `datasets` reads one and leaves out "
            f"{', '.join(sorted(left_out))}: keep each type in a directory of its own, or give a single file."
        )
    if split not in data_files:
        raise ValueError(f"{directory} has the splits {', '.join(map(str, data_files))}, not {split!r}.")
    return [Path(file) for file in data_files[split]]


def _file_source(path: Path, name: str) -> Source:
    if path.suffix == PARQUET_SUFFIX:
        try:
            # `datasets` fails on a table without rows as on a broken file.
            if not pyarrow.parquet.read_metadata(path).num_rows:
                return Source(name, [], [], padded=False)
            return dataset_source(Dataset.from_parquet(str(path)), name)
        except (DatasetGenerationError, pyarrow.ArrowInvalid) as error:
            raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
    if path.suffix == CSV_SUFFIX:
        return _csv_source(path, name)
    if path.suffix not in JSON_SUFFIXES:
        raise ValueError(f"{path} has the type {path.suffix!r}: convert it to .json, .jsonl, .parquet or .csv.")
    # `load_dataset("json")` is not used. Arrow wants one type per column, but the arguments of tool calls differ in
    # type from row to row. It also pads them with nulls that cannot be told from the data's own, and stops at the
    # first broken line.
    rows = _read_json(path)
    columns = dict.fromkeys(column for row in rows if isinstance(row, dict) for column in row)
    return Source(name, list(columns), rows, padded=False)


def _csv_source(path: Path, name: str) -> Source:
    """Rows whose values are text; messages, tools and calls are JSON in it."""
    csv.field_size_limit(2**31 - 1)  # characters; a dialogue may have more than the 131,072 of the default
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows: list[Any] = [
                MalformedRowError(f"line {reader.line_num} has more fields than the header") if None in row else row
                for row in reader
            ]
            return Source(name, list(reader.fieldnames or ()), rows, padded=False)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error


def _read_json(path: Path) -> list[Any]:
    """Read an array of rows, or one row per line; a line that cannot be read becomes a [`MalformedRowError`]."""
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not content.lstrip().startswith(b"["):
        return list(_read_lines(content))
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} starts as a JSON array but cannot be read: {error}") from error


def _read_lines(content: bytes) -> Iterable[Any]:
    # Bytes are split, not text, so that only line feeds end a line: JSON strings may hold U+2028 and the like.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            yield MalformedRowError(f"line {number} is not valid JSON ({error.msg} at column {error.colno})")
        except (UnicodeDecodeError, RecursionError) as error:
            yield MalformedRowError(f"line {number} cannot be read ({error})")


def is_local_path(name: str) -> bool:
    """Whether the name of a model or data set is a path. `a/b`, which could be a Hub id, is a path if it exists."""
    return (
        os.path.isabs(name)
        or bool(re.match(r"(~|\.{1,2})?[/\\]|[A-Za-z]:[/\\]", name))
        or (re.search(r"[/\\]", name) is not None and os.path.exists(name))
    )
