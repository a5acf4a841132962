import pytest
from chat_templates import (
    TEMPLATES,
    TEMPLATES_OF_SYNTAX,
    TEMPLATES_WITHOUT_SYNTAX,
    syntax_of_template,
    tokenizer_with,
)

from rest_trl.tool_calls import SYNTAXES, detect_syntax
from rest_trl.tool_calls.detect import _EVIDENCE


# For syntaxes of which TRL ships no template: lines made up after what such templates hold.
EXCERPTS = {
    "deepseek_v31": "{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' + arguments}}",
    "functiongemma": "{{ '<start_function_call>call:' + function['name'] + '{' }}",
    "granite": "<|start_of_role|>system<|end_of_role|>respond only with <|tool_call|> followed by a JSON list",
    "granite4": '<|start_of_role|>system<|end_of_role|><tool_call>{\\"name\\": ., \\"arguments\\": .}\n</tool_call>',
    "hermes": '<tool_call>\n{"arguments": <args-dict>, "name": <function-name>}\n</tool_call>',
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>{{ arguments }}",
    "llama3_json": '<|header_start|>{\\"name\\": function name, \\"parameters\\": dictionary of argument name...}',
    "mistral": '{{- "[TOOL_CALLS] [" }}',
    "phi4_mini_json": "{{ '<|' + message['role'] + '|>' + '<|tool|>' + message['tools'] + '<|/tool|>' }}",
    "pythonic": "Use exact format: [func_name1(param1=value1, param2=value2), func_name2(...)]",
    "rlla": '<tool_call>\n{"name": "Tool name", "parameters": {}}\n</tool_call>\n<response> text </response>',
}

TOKENS = {
    "functiongemma": ["<start_function_call>", "<end_function_call>", "<escape>"],
    "gemma4": ["<|tool_call>", "<tool_call|>"],
    "glm45": ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
    "kimi_k2": ["<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"],
    "lfm2": ["<|tool_call_start|>", "<|tool_call_end|>"],
    "llama3_json": ["<|python_tag|>", "<|eom_id|>"],
    "mistral": ["[TOOL_CALLS]", "[INST]"],
    "openai": ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|call|>"],
    "phi4_mini_json": ["<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>"],
}


class TestDetectSyntax:
    def test_knows_every_syntax(self):
        assert set(_EVIDENCE) == set(SYNTAXES)
        assert set(_EVIDENCE) == {*TEMPLATES_OF_SYNTAX, *EXCERPTS}

    @pytest.mark.parametrize("template", sorted(TEMPLATES))
    def test_reads_the_templates_that_trl_ships(self, template):
        name = syntax_of_template(template)
        if name:
            assert detect_syntax(tokenizer_with(TEMPLATES[template])) == name
        else:
            assert template.removesuffix("_training") in TEMPLATES_WITHOUT_SYNTAX
            with pytest.raises(ValueError, match="neither the chat template nor the added tokens"):
                detect_syntax(tokenizer_with(TEMPLATES[template]))

    @pytest.mark.parametrize("name", sorted(EXCERPTS))
    def test_reads_other_templates(self, name):
        assert detect_syntax(tokenizer_with(EXCERPTS[name])) == name

    @pytest.mark.parametrize("chat_template", [None, "{{ messages[0].content }}"])
    @pytest.mark.parametrize("name", sorted(TOKENS))
    def test_reads_the_tokens_where_the_template_shows_no_calls(self, name, chat_template):
        assert detect_syntax(tokenizer_with(chat_template, TOKENS[name])) == name

    def test_the_template_outranks_the_tokens(self):
        assert detect_syntax(tokenizer_with(TEMPLATES["qwen3"], TOKENS["llama3_json"])) == "hermes"

    def test_reads_the_tool_template_of_several(self):
        templates = {"default": "{{ messages }}", "tool_use": TEMPLATES["qwen3"], "rag": EXCERPTS["mistral"]}
        assert detect_syntax(tokenizer_with(templates)) == "hermes"
        assert detect_syntax(tokenizer_with({"default": TEMPLATES["qwen3"], "rag": "documents"})) == "hermes"

    def test_tokens_that_several_syntaxes_share_decide_nothing(self):
        with pytest.raises(ValueError, match="show a known tool-call syntax: set tool_call_syntax"):
            detect_syntax(tokenizer_with("{{ messages }}", ["<tool_call>", "</tool_call>", "<think>"]))

    def test_a_missing_template_is_named(self):
        with pytest.raises(ValueError, match=r"has no chat template.*set tool_call_syntax.*hermes.*rlla"):
            detect_syntax(tokenizer_with(None))

    def test_an_ambiguous_template_names_the_candidates(self):
        with pytest.raises(ValueError, match=r"several tool-call syntaxes \(hermes, mistral\): set tool_call_syntax"):
            detect_syntax(tokenizer_with(TEMPLATES["qwen3"] + EXCERPTS["mistral"]))

    def test_ambiguous_tokens_name_the_candidates(self):
        with pytest.raises(ValueError, match=r"several tool-call syntaxes \(llama3_json, mistral\)"):
            detect_syntax(tokenizer_with(None, TOKENS["llama3_json"] + TOKENS["mistral"]))
