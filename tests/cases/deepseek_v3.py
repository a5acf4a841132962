"""DeepSeek-V3 and R1: JSON in a Markdown fence."""

from . import Case, SyntaxCases, Template
from ._json import ONE_CALL, OSLO, Writer, behind_name, common, repeat


BEGINS, ENDS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
BEGIN, SEP, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
WRITER = Writer(
    BEGINS,
    behind_name(f"{BEGIN}function{SEP}", "\n```json\n", f"\n```{END}"),
    "\n",
    ENDS,
    vllm_fails_at=("line breaks",),
)
ONE = WRITER.write(("get_weather", OSLO[0]))

CASES: list[Case] = [
    *common(WRITER),
    repeat("duplicate block", ONE, ["get_weather"] * 2, True),
    Case("section not closed", ONE[:-1], ONE_CALL),
    Case("outside of a section", ONE[1:-1], [], False),
    Case("an empty section", [(BEGINS + ENDS, "F")], [], False),
    Case(
        "another type",
        [
            (f"{BEGINS}{BEGIN}tool{SEP}", "F"),
            ("f", "N"),
            ("\n```json\n", "F"),
            ("{}", "P"),
            (f"\n```{END}{ENDS}", "F"),
        ],
        [],
        False,
    ),
    Case(
        "no type",
        [(f"{BEGINS}{BEGIN}get_weather\n```json\n", "F"), ("{}", "P"), (f"\n```{END}{ENDS}", "F")],
        [],
        False,
    ),
    Case(
        "no fence",
        [(f"{BEGINS}{BEGIN}function{SEP}", "F"), ("f", "N"), ("\n", "F"), ("{}", "P"), (f"{END}{ENDS}", "F")],
        [],
        False,
    ),
    Case(
        "fence not closed",
        [(f"{BEGINS}{BEGIN}function{SEP}", "F"), ("f", "N"), ("\n```json\n", "F"), ("{}", "P"), (f"{END}{ENDS}", "F")],
        [],
        False,
    ),
    Case("cut off in the fence", [(f"{BEGINS}{BEGIN}function{SEP}", "F"), ("f", "N"), ("\n``", "F")], [], False),
    Case("cut off after the arguments", [*ONE[:-2], ("\n``", "F")], [], False),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    templates=(
        Template("deepseek_r1_distill", takes_text=True),
        Template("deepseekv3", takes_text=True),
        Template("deepseekv3_training"),
    ),
    ends_of_turn=("<｜end▁of▁sentence｜>",),
)
