"""The gold call after a sampled reasoning: where the reasoning ends, and the token ids that go on from there."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from accelerate.logging import get_logger
from accelerate.utils import gather_object
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import ExportableState

from ..regions import Partitioner, Turn
from ..rewards import follows_layout, is_exact
from ..rewards.reading import Gold, parse_gold
from ..tool_calls import ParsedCompletion, Part, ToolCallSyntax
from .texts import gold_texts


logger = get_logger(__name__)

Ids = tuple[int, ...]
Key = tuple[int, Ids]  # of a prompt and its gold call
Sampled = tuple[Sequence[int], Sequence[int], Sequence[Turn]]  # ids of prompt and completion, and its turns

_MAX_FORMS = 4  # of the gold call of a prompt: as many of the data set, and with its first one as many of the policy
_MAX_PROMPTS = 1024  # whose other forms are remembered
_PROBE = "rest-trl-probe"
_PROMPT_TAIL = 32  # last tokens of a prompt that are read; a tag and the white space after it have fewer


def reasoning_end(text: str, parsed: ParsedCompletion, syntax: ToolCallSyntax, opened: bool = False) -> int | None:
    """
    Where a turn's reasoning ends, in characters: before its first call, and after the tag that closes the reasoning.
    It is 0 where there is no reasoning, and `None` where it does not end. `opened` says that the prompt has opened it.

    Example:

    ```python
    >>> from rest_trl.tool_calls import get_syntax
    >>> syntax = get_syntax("hermes")
    >>> texts = '<think>Easy.</think> <tool_call>{"name": "f", "arguments": {}}</tool_call>', "<think>So"
    >>> [reasoning_end(text, syntax.parse(text), syntax) for text in texts]
    [20, None]

    ```
    """
    blocks = [block for block in parsed.blocks if block.kind == "reasoning"]
    if not all(block.closed for block in blocks) or (opened and not blocks):
        return None
    name = next((start for start, _, part in parsed.parts if part is Part.TOOL_NAME), None)
    if name is None and not syntax.end_think:
        return None  # without tags, only a call tells that the reasoning is over
    # Text for the user before a call belongs to its reasoning. Without a call, it is the answer.
    kinds = (Part.REASONING,) if name is None else (Part.REASONING, Part.RESPONSE)
    stop = len(text) if name is None else name
    end = max((until for start, until, part in parsed.parts if part in kinds and start < stop), default=0)
    tag = text.find(syntax.end_think, end, stop) if blocks and syntax.end_think else -1
    return end if tag == -1 else tag + len(syntax.end_think)


class Continuation(NamedTuple):
    """The gold call after `length` tokens of a completion, as the ids of its known forms; none without an end."""

    length: int
    forms: list[Ids]


class Seam(NamedTuple):
    """
    The end of a reasoning: the number of tokens before it, the last of its text if that shares a token with what
    follows, and the white space before what follows, `None` if one of the two is not there.
    """

    length: int
    rest: str
    gap: str | None


class GoldForms(TrainerCallback, ExportableState):
    """The forms in which the policy has written the gold calls of prompts. Checkpoints keep them."""

    def __init__(self) -> None:
        self._forms: dict[Key, list[Ids]] = {}

    def of(self, key: Key) -> list[Ids]:
        """The forms of a prompt's gold call that the data set does not have."""
        return self._forms.get(key, [])

    def add(self, key: Key, form: Ids) -> None:
        """Add a form; of too many, the oldest is forgotten."""
        others = [other for other in self._forms.pop(key, []) if other != form]
        self._forms[key] = [*others[2 - _MAX_FORMS :], form]
        if len(self._forms) > _MAX_PROMPTS:
            del self._forms[next(iter(self._forms))]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"known": self.known}}

    @property
    def known(self) -> list[Any]:
        """All forms, as [`state`](GoldForms.state) writes them."""
        return [[prompt, list(gold_ids), forms] for (prompt, gold_ids), forms in self._forms.items()]

    @known.setter
    def known(self, value: list[Any]) -> None:
        self._forms = {(prompt, tuple(gold_ids)): [*map(tuple, forms)] for prompt, gold_ids, forms in value}


class GoldContinuations:
    """
    Finds the gold calls that may follow the reasonings of a rollout, as token ids.

    The data set's is the first form. Calls that the policy has sampled for the prompt, now or in earlier rollouts, are
    further forms if they have the gold's calls and layout.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        partitioner: Partitioner,
        stop_ids: Collection[int],
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self._tokenizer, self._stop_ids = tokenizer, frozenset(stop_ids)
        self._end_ids = tuple(end_of_turn(tokenizer, self._stop_ids, chat_template_kwargs))
        self._syntax, self._token_bytes = partitioner.tool_call_syntax, partitioner.token_bytes
        self._gap = ""
        self._warned: set[str] = set()

    def find(
        self, rollout: Sequence[Sampled], golds: Sequence[Any], forms: GoldForms, after_reasoning: bool = True
    ) -> list[Continuation | None]:
        """The continuations of this process's completions, `None` where the gold has no calls or one for each turn."""
        seams = [self._seam(*sampled) if after_reasoning else Seam(0, "", None) for sampled in rollout]
        # A gold without reasoning does not show what the policy writes between reasoning and call.
        gaps = gather_object([seam.gap for seam in seams if seam and seam.gap is not None])
        self._gap = Counter(gaps).most_common(1)[0][0] if gaps else self._gap
        found: list[tuple[Continuation, Key] | None] = []
        written: list[tuple[Key, Ids]] = []
        for (prompt, completion, turns), gold, seam in zip(rollout, golds, seams, strict=True):
            given = [] if gold is None else self._gold_ids(gold, seam, after_reasoning)
            if not given:
                found.append(None)
                continue
            key = hash(tuple(prompt)), given[0]
            if seam is None:
                found.append((Continuation(len(completion), []), key))
                continue
            form = tuple(completion[seam.length :])
            found.append((Continuation(seam.length, given), key))
            if after_reasoning and form not in given and self._is_gold(form, turns, gold):
                written.append((key, form))
        # A group may lie on several processes, so all of them learn the forms that any has found.
        for key, form in gather_object(written):
            forms.add(key, form)
            own, theirs = (f"{self._token_bytes.text(ids)!r} ({len(ids)} tokens)" for ids in (form, key[1]))
            self._warn("forms", f"the policy writes a gold call as {own}, the data set as {theirs}: both are gold")
        for continuation, key in filter(None, found):
            if continuation.forms:
                continuation.forms.extend(form for form in forms.of(key) if form not in continuation.forms)
        return [each and each[0] for each in found]

    def _seam(self, prompt: Sequence[int], completion: Sequence[int], turns: Sequence[Turn]) -> Seam | None:
        if not turns:
            return None
        text, parsed = turns[0].text, turns[0].parsed
        tail = self._token_bytes.text(prompt[-_PROMPT_TAIL:]).rstrip()
        opened = bool(self._syntax.think) and tail.endswith(self._syntax.think)
        end = reasoning_end(text, parsed, self._syntax, opened)
        if end is None:
            return None
        (length,) = turns[0].columns([end])
        before = self._token_bytes.text(completion[:length])
        if len(before) > end:
            length -= 1
            before = self._token_bytes.text(completion[:length])
        after = text[end:]
        gap = after[: len(after) - len(after.lstrip())] if end and after.strip() else None
        return Seam(length, text[len(before) : end], gap)

    def _gold_ids(self, gold: Gold, seam: Seam | None, after_reasoning: bool) -> list[Ids]:
        """
        Ids of the forms of a gold call, tokenised on their own, so that no token lies across the seam; one without
        ids where there is no seam, and none without a gold call.
        """
        texts = gold_texts(gold, self._syntax, _MAX_FORMS)
        found = [self._ids(text, seam, after_reasoning) for text in texts]
        return [ids for ids in found if ids is not None]

    def _ids(self, gold: str, seam: Seam | None, after_reasoning: bool) -> Ids | None:
        parsed = self._syntax.parse(gold)
        end = reasoning_end(gold, parsed, self._syntax) if after_reasoning else 0
        if not parsed.calls or end is None:
            return None
        if seam is None:
            return ()
        text = seam.rest + (self._gap if end == 0 and seam.length else "") + gold[end:]
        # SentencePiece puts a blank before every text. The full stop takes it.
        for before in ("", "."):
            skipped = len(self._tokenizer(before, add_special_tokens=False)["input_ids"])
            ids = self._tokenizer(before + text, add_special_tokens=False)["input_ids"][skipped:]
            if self._token_bytes.text(ids) == text:
                return (*ids, *self._end_ids)
        self._warn("text", f"a gold call is left out, because the tokenizer does not keep its text: {text[:300]!r}")
        return None

    def _is_gold(self, form: Ids, turns: Sequence[Turn], gold: Gold) -> bool:
        """Whether a completion that ends with `form` has the gold's calls and layout."""
        parsed, wanted = turns[0].parsed, parse_gold(self._syntax.name, gold)
        ends = bool(form) and form[-1] in self._stop_ids
        return ends and is_exact(parsed, wanted) and follows_layout(parsed, wanted, self._syntax.name)

    def _warn(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning(message)


def end_of_turn(
    tokenizer: PreTrainedTokenizerBase,
    stops: Collection[int],
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """
    How a policy should end its turn: with what the chat template writes there, up to the first token at which
    generation stops (`stops`, or the end-of-sequence token).

    That need not be the tokenizer's end-of-sequence token: Gemma 3 ends a turn with `<end_of_turn>`. Where generation
    would not stop at what the template writes, as with many base models, or the template writes nothing there, it is
    the end-of-sequence token.
    """
    end: Any = tokenizer.eos_token_id
    ids: list[int] = tokenizer(_after_a_turn(tokenizer, chat_template_kwargs or {}), add_special_tokens=False)[
        "input_ids"
    ]
    stop = next((place for place, token in enumerate(ids) if token in {*stops, end}), None)
    return [end] if stop is None else ids[: stop + 1]


def _after_a_turn(tokenizer: PreTrainedTokenizerBase, chat_template_kwargs: Mapping[str, Any]) -> str:
    """What the chat template writes after the text of an assistant's turn; nothing without a template."""
    if tokenizer.chat_template is None and "chat_template" not in chat_template_kwargs:
        return ""
    messages: Any = [{"role": "user", "content": "."}, {"role": "assistant", "content": _PROBE}]
    try:
        rendered = str(tokenizer.apply_chat_template(messages, tokenize=False, **chat_template_kwargs))
    except (TemplateError, TypeError, LookupError):  # a template that refuses such messages may be given text alone
        return ""
    return rendered.rpartition(_PROBE)[2] if _PROBE in rendered else ""
