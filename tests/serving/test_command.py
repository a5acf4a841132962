import shlex

import pytest

from rest_trl.serving.command import reasoning_parser_of, serve_command


class TestServeCommand:
    def test_of_a_training_gives_what_trl_asks_a_server_for(self):
        command = serve_command("org/model", training=True, port=8000)
        assert command == (
            "VLLM_SERVER_DEV_MODE=1 vllm serve org/model --port 8000 "
            """--weight-transfer-config '{"backend": "nccl"}' --logprobs-mode processed_logprobs --max-logprobs -1"""
        )

    def test_quotes_paths(self):
        command = serve_command("/models/my base", adapter="/models/my adapter/")
        words = ["vllm", "serve", "/models/my base", "--enable-lora", "--lora-modules"]
        assert shlex.split(command) == [*words, "my adapter=/models/my adapter/"]

    def test_is_one_command_over_several_lines(self):
        lines = serve_command("a", adapter="b/c", lora_rank=8, tool_call_parser="hermes", separator=" \\\n  ")
        one_line = serve_command("a", adapter="b/c", lora_rank=8, tool_call_parser="hermes")
        assert lines.count("\n") == 2 and shlex.split(lines.replace("\\\n", "")) == shlex.split(one_line)

    @pytest.mark.parametrize(("rank", "served"), [(None, None), (16, None), (17, 32), (300, 320), (512, 512)])
    def test_names_a_rank_that_is_above_the_default(self, rank, served):
        words = shlex.split(serve_command("base", adapter="me/calls", lora_rank=rank))
        assert words[3:5] == ["--enable-lora", "--lora-modules"]
        assert words[6:] == ([] if served is None else ["--max-lora-rank", str(served)])

    def test_refuses_a_rank_that_vllm_does_not_take(self):
        with pytest.raises(ValueError, match=r"up to rank 512.*rank 600: merge it"):
            serve_command("base", adapter="me/calls", lora_rank=600)


class TestReasoningParserOf:
    @pytest.mark.parametrize(
        ("model_type", "chat_template", "parser"),
        [
            ("qwen3", "{{ '<think>' }}", "qwen3"),
            ("qwen3", "{{ messages }}", None),
            ("qwen3", None, None),
            ("llama", "{{ '<think>' }}", None),
        ],
    )
    def test_is_by_model_and_template(self, model_type, chat_template, parser):
        assert reasoning_parser_of(model_type, chat_template) == parser
