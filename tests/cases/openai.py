"""GPT-OSS. A completion starts inside the header that the prompt opens with `<|start|>assistant`."""

from . import VLLM, Case, SyntaxCases, Template


ANALYSIS = [("<|channel|>analysis<|message|>", "F"), ("The user wants the weather in Oslo.", "R")]
NEXT = [("<|end|><|start|>assistant", "F")]
FINAL = ("<|channel|>final<|message|>", "F")


def call(name, arguments, end="<|call|>"):
    return [
        ("<|channel|>commentary to=functions.", "F"),
        (name, "N"),
        (" <|constrain|>json<|message|>", "F"),
        (arguments, "P"),
        (end, "F"),
    ]


CASES = [
    Case(
        "reasoning and a call",
        [*ANALYSIS, *NEXT, *call("get_weather", '{"city": "Oslo"}')],
        [("get_weather", {"city": "Oslo"})],
    ),
    Case(
        "recipient before the channel",
        [
            *ANALYSIS,
            ("<|end|><|start|>assistant to=functions.", "F"),
            ("get_weather", "N"),
            ("<|channel|>commentary <|constrain|>json<|message|>", "F"),
            ('{"city": "Oslo", "days": 3}', "P"),
            ("<|call|>", "F"),
        ],
        [("get_weather", {"city": "Oslo", "days": 3})],
    ),
    Case(
        "recipient first, right at the start, without the constrain token",
        [
            (" to=functions.", "F"),
            ("now", "N"),
            ("<|channel|>commentary json<|message|>", "F"),
            ("{}", "P"),
            ("<|call|>", "F"),
        ],
        [("now", {})],
    ),
    Case(
        "several calls",
        [
            *call("get_weather", '{"city":"Oslo"}'),
            ("<|start|>assistant", "F"),
            *call("get_time", '{"zone":"Europe/Oslo"}'),
            ("<|start|>assistant", "F"),
            *call("get_weather", '{"city":"Oslo"}'),
        ],
        [
            ("get_weather", {"city": "Oslo"}),
            ("get_time", {"zone": "Europe/Oslo"}),
            ("get_weather", {"city": "Oslo"}),
        ],
    ),
    Case(
        "nested arguments over several lines",
        [
            *call(
                "plan_trip",
                '{\n  "stops": [{"name": "Oslo", "days": 2}, {"name": "Bergen"}],\n'
                '  "options": {"rail": true, "budget": null}\n}',
            ),
        ],
        [
            (
                "plan_trip",
                {
                    "stops": [{"name": "Oslo", "days": 2}, {"name": "Bergen"}],
                    "options": {"rail": True, "budget": None},
                },
            )
        ],
    ),
    Case(
        "unicode and escapes",
        [*call("send", r'{"to": "Zoë", "text": "東京 🌦 \"hi\" \u00fc\n"}')],
        [("send", {"to": "Zoë", "text": '東京 🌦 "hi" ü\n'})],
    ),
    Case(
        "preamble for the user before the call",
        [
            *ANALYSIS,
            *NEXT,
            ("<|channel|>commentary<|message|>", "F"),
            ("Let me look that up.", "A"),
            *NEXT,
            *call("search", '{"query": "fjords"}'),
        ],
        [("search", {"query": "fjords"})],
    ),
    Case(
        "final answer",
        [*ANALYSIS, *NEXT, FINAL, ("It is 3 °C and {clear} in Oslo.", "A"), ("<|return|>", "F")],
        [],
    ),
    Case(
        "call in the analysis channel, ended like any message",
        [
            ("<|channel|>analysis to=functions.", "F"),
            ("search", "N"),
            (" code<|message|>", "F"),
            ('{"query": "fjords"}', "P"),
            ("<|end|>", "F"),
        ],
        [("search", {"query": "fjords"})],
    ),
    Case(
        "recipient without its namespace",
        [
            ("<|channel|>commentary to=", "F"),
            ("search", "N"),
            ("<|constrain|>json<|message|>", "F"),
            ('{"query": "fjords"}', "P"),
            ("<|call|>", "F"),
        ],
        [("search", {"query": "fjords"})],
    ),
    Case(
        "built-in tool, which is the server's business",
        [
            ("<|channel|>analysis to=", "F"),
            ("python", "N"),
            (" code<|message|>", "F"),
            ("print(2 ** 10)", "P"),
            ("<|call|>", "F"),
        ],
        [],
    ),
    Case(
        "function named like a built-in tool",
        [*call("python", '{"code": "1 + 1"}')],
        [("python", {"code": "1 + 1"})],
    ),
    Case(
        "end marker in an argument",
        [*call("say", '{"text": "a <|call|> b <|end|> c"}')],
        [("say", {"text": "a <|call|> b <|end|> c"})],
        well_formed=False,  # quoted text is not the special token, which text alone cannot tell vLLM's parser
    ),
    Case(
        "reasoning that quotes the markers",
        [
            ("<|channel|>analysis<|message|>", "F"),
            ("I write <|channel|>commentary to=functions.x<|message|>{} and <|call|> last.", "R"),
            *NEXT,
            *call("now", "{}"),
        ],
        [("now", {})],
        well_formed=False,
    ),
    Case(
        "invented tool result",
        [
            *call("now", "{}"),
            ("<|start|>functions.now to=assistant<|channel|>commentary<|message|>", "F"),
            ('"12:30"', "A"),
            ("<|end|><|start|>assistant<|channel|>final<|message|>", "F"),
            ("It is 12:30.", "A"),
            ("<|return|>", "F"),
        ],
        [("now", {})],
    ),
    Case(
        "call without its end marker",
        [*call("get_weather", '{"city": "Oslo"}', end="")],
        [("get_weather", {"city": "Oslo"})],
    ),
    Case(
        "no message at all",
        [("Hello! How can I help?", "A")],
        [],
    ),
    Case(
        "broken JSON voids all calls",
        [
            *call("get_weather", '{"city": "Oslo"}'),
            ("<|start|>assistant", "F"),
            *call("get_weather", '{"city": "Bergen", days: 3}'),
        ],
        [],
        well_formed=False,
    ),
    Case(
        "arguments that are no object",
        [*call("get_weather", '["Oslo"]')],
        [],
        well_formed=False,
    ),
    Case(
        "no arguments at all",
        [*call("now", "")],
        [],
        well_formed=False,
    ),
    Case(
        "cut off in the arguments",
        [*call("get_weather", '{"city": "Osl', end="")],
        [],
        well_formed=False,
    ),
    Case(
        "cut off in the header",
        [*ANALYSIS, ("<|end|><|start|>assistant<|channel|>commentary to=functions.", "F"), ("get_wea", "N")],
        [],
        well_formed=False,
    ),
    Case(
        "cut off in the reasoning",
        [("<|channel|>analysis<|message|>", "F"), ("The user wants", "R")],
        [],
    ),
    Case(
        "next message without its start",
        [*ANALYSIS, ("<|end|>", "F"), *call("now", "{}")],
        [],
        well_formed=False,
    ),
]

SYNTAX = SyntaxCases(
    cases=CASES,
    templates=(Template("gptoss", calls=1),),
    tokens=("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|call|>"),
    vllm=VLLM(reasoning_parser="openai_gptoss", harmony=True),
)
