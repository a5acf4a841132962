"""DeepSeek-V3.1: JSON after the name."""

from . import Case, SyntaxCases
from ._json import ONE_CALL, OSLO, Writer, behind_name, common, repeat


BEGINS, ENDS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
BEGIN, SEP, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
WRITER = Writer(BEGINS, behind_name(BEGIN, SEP, END), "", ENDS, vllm_fails_at=("line breaks",))
ONE = WRITER.write(("get_weather", OSLO[0]))

CASES: list[Case] = [
    *common(WRITER),
    repeat("duplicate block", ONE, ["get_weather"] * 2, True),
    Case("section not closed", ONE[:-1], ONE_CALL),
    Case("outside of a section", ONE[1:-1], [], False),
    Case("an empty section", [(BEGINS + ENDS, "F")], [], False),
    Case("call not closed", [*ONE[:-2], (ENDS, "F")], [], False),
    Case("no separator", [(BEGINS + BEGIN, "F"), ("f", "N"), ("\n", "F"), ("{}", "P"), (END + ENDS, "F")], [], False),
    Case(
        "the syntax of V3",
        [
            (f"{BEGINS}{BEGIN}", "F"),
            ("function", "N"),
            (f"{SEP}f\n```json\n", "F"),
            ("{}", "P"),
            (f"\n```{END}{ENDS}", "F"),
        ],
        [],
        False,
    ),
    Case("no JSON", [(BEGINS + BEGIN, "F"), ("f", "N"), (SEP, "F"), ("city=Oslo", "P"), (END + ENDS, "F")], [], False),
    Case("cut off in the name", [(BEGINS + BEGIN, "F"), ("get_wea", "N")], [], False),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    excerpt="{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' + arguments}}",
)
