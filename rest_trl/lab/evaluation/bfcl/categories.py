"""Which BFCL categories can be run, and over which ones the official packages average."""

from collections.abc import Sequence


_LIVE = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
_RELEVANCE = ("live_irrelevance", "live_relevance")
_NON_LIVE = ("multiple", "parallel", "parallel_multiple")
_MULTI_TURN = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
_AGENTIC = ("web_search_base", "web_search_no_snippet", "memory_kv", "memory_vector", "memory_rec_sum")

# The categories that can be run, in the order of the reports.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "v3": ("simple", "java", "javascript", *_NON_LIVE, "irrelevance", *_LIVE, *_RELEVANCE, *_MULTI_TURN),
    "v4": (
        *("simple_python", "simple_java", "simple_javascript", *_NON_LIVE, "irrelevance"),
        *(*_LIVE, *_RELEVANCE, *_MULTI_TURN),
    ),
}

_WEB = "it sends the model's queries to a paid search service"
_MEMORY = "its simulators need sentence-transformers and faiss, and memories that earlier runs of the model wrote"
REFUSED: dict[str, dict[str, str]] = {
    "v3": {},
    "v4": {name: _WEB if name.startswith("web") else _MEMORY for name in _AGENTIC}
    | {"format_sensitivity": "it varies the prompt of models without tool calling, and counts in no average"},
}

# For each official average: the official table and column that hold it, and the categories that it averages. The
# official code counts a category that was not run as 0, so an average is given only if all its categories were run.
AVERAGES: dict[str, dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "v3": {
        "overall": ("data_overall", "Overall Acc", CATEGORIES["v3"]),
        "non_live": (
            "data_non_live",
            "Non_Live Overall Acc",
            ("simple", "java", "javascript", *_NON_LIVE, "irrelevance"),
        ),
        "live": ("data_live", "Live Overall Acc", _LIVE + _RELEVANCE),
        "multi_turn": ("data_multi_turn", "Multi Turn Overall Acc", _MULTI_TURN),
    },
    "v4": {
        "overall": ("data_overall", "Overall Acc", (*CATEGORIES["v4"], *_AGENTIC)),
        "non_live": (
            "data_non_live",
            "Non-Live Overall Acc",
            ("simple_python", "simple_java", "simple_javascript", *_NON_LIVE),
        ),
        "live": ("data_live", "Live Overall Acc", _LIVE),
        "multi_turn": ("data_multi_turn", "Multi Turn Overall Acc", _MULTI_TURN),
    },
}


def expand_categories(version: str, names: Sequence[str]) -> list[str]:
    """
    Expand names of categories and of groups of categories.

    Args:
        version (`str`):
            `"v3"` or `"v4"`.
        names (`Sequence[str]`):
            Official names, or groups: `"all"`, `"python"` (all but Java and JavaScript), `"single_turn"` (all but
            dialogues), and `"non_live"`, `"live"`, `"multi_turn"`, which have official averages.

    Returns:
        `list[str]`: official names, each once, in the order of [`CATEGORIES`].

    Raises:
        ValueError: if there is no such category or it cannot be run, see [`check_category`].

    Example:

    ```python
    >>> expand_categories("v4", ["live", "multiple"])
    ['multiple', 'live_simple', 'live_multiple', 'live_parallel', 'live_parallel_multiple']

    ```
    """
    every = CATEGORIES[version]
    groups: dict[str, Sequence[str]] = {
        "all": every,
        "python": [name for name in every if "java" not in name],
        "single_turn": [name for name in every if name not in _MULTI_TURN],
        **{name: AVERAGES[version][name][2] for name in ("non_live", "live", "multi_turn")},
    }
    chosen = {category for name in names for category in groups.get(name, [name])}
    for category in sorted(chosen):
        check_category(version, category)
    return [category for category in every if category in chosen]


def check_category(version: str, category: str) -> None:
    """
    Refuse a category that cannot be run.

    Args:
        version (`str`):
            `"v3"` or `"v4"`.
        category (`str`):
            The official name of a category of that version.

    Raises:
        ValueError: if there is no such category, or if it cannot be run. The message says why.
    """
    if category in REFUSED[version]:
        raise ValueError(f"BFCL {version} category {category!r} is not supported: {REFUSED[version][category]}")
    if category not in CATEGORIES[version]:
        raise ValueError(
            f"BFCL {version} has no category {category!r}: choose of "
            f"{', '.join(CATEGORIES[version])}, or the groups all, python, single_turn, non_live, live, multi_turn"
        )
