import pytest
from cases import load_syntaxes
from chat_templates import CALLS_OF_NO_SYNTAX, TEMPLATES, syntax_of_template, tokenizer_with

from rest_trl.tool_calls import Evidence, ParsedCompletion, ToolCallSyntax, detect_syntax


TESTED = load_syntaxes()
EXCERPTS = {name: syntax.excerpt for name, syntax in TESTED.items() if syntax.excerpt}
TOKENS = {name: syntax.tokens for name, syntax in TESTED.items() if syntax.tokens}


class TestDetectSyntax:
    def test_every_syntax_is_tried_on_a_template(self):
        assert [name for name, syntax in TESTED.items() if not (syntax.templates or syntax.excerpt)] == []

    def test_every_template_that_renders_calls_is_known(self):
        unknown = {file.removesuffix("_training") for file in TEMPLATES if not syntax_of_template(file)}
        assert {file for file in unknown if "tool_calls" in TEMPLATES[file]} <= CALLS_OF_NO_SYNTAX

    @pytest.mark.parametrize("template", sorted(TEMPLATES))
    def test_reads_the_templates_that_trl_ships(self, template):
        name = syntax_of_template(template)
        if name:
            assert detect_syntax(tokenizer_with(TEMPLATES[template])) == name
        else:
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

    def test_evidence_that_holds_another_s_outranks_it(self, registry):
        class Similar(ToolCallSyntax):
            name = "similar"
            evidence = (Evidence(("<tool_call>", '"arguments"', "<similar>")),)

            def parse(self, text):
                return ParsedCompletion()

        assert detect_syntax(tokenizer_with(EXCERPTS["hermes"] + "<similar>")) == "similar"
        assert detect_syntax(tokenizer_with(EXCERPTS["hermes"])) == "hermes"

    def test_evidence_without_strings_of_a_template_fits_none(self, registry):
        class ByToken(ToolCallSyntax):
            name = "by_token"
            evidence = (Evidence((), tokens=("<my>",)),)

            def parse(self, text):
                return ParsedCompletion()

        with pytest.raises(ValueError, match="neither the chat template nor the added tokens"):
            detect_syntax(tokenizer_with("{{ messages }}"))
        assert detect_syntax(tokenizer_with("{{ messages }}", ["<my>"])) == "by_token"
        assert detect_syntax(tokenizer_with(EXCERPTS["hermes"])) == "hermes"
