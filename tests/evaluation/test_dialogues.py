"""Dialogues are led as TRL's own loop leads them: the same script gives the same text and the same state."""

from itertools import islice

import pytest
from chat_templates import TEMPLATES
from test_native_tools import ScriptedTrainer, roll_out
from transformers import AutoModelForCausalLM, AutoTokenizer

from rest_trl import ResTGRPOConfig
from rest_trl.lab.evaluation.agents_benchmark import Dialogue, tools_of
from rest_trl.lab.tiny import TINY_AGENTS, TINY_MODELS
from rest_trl.lab.tiny.agents import HelpDesk, generate_tasks, load_tasks
from rest_trl.lab.tiny.agents.dialogues import play
from rest_trl.tool_calls import get_syntax


HERMES = get_syntax("hermes")
TASK = next(task for task in generate_tasks("test") if task.kind == "find_status_message")
GOLD = [step.solution for step in play(TASK)]
CALL = '<tool_call>\n{"name": "get_owner", "arguments": {"ticket": 55}}\n</tool_call>'
SCRIPTS = {
    "the plan": GOLD,
    "an answer at once": ["Done."],
    "a call that fails": [CALL, *GOLD],
    "an unknown tool": [CALL.replace("get_owner", "delete_owner"), "Done."],
    "unknown parameters": [CALL.replace("ticket", "number"), "Done."],
    "a call beside one that fails": [f"{GOLD[0]}\n{CALL}", "Done."],
    "a broken call": [GOLD[0], GOLD[1].replace("}}", "")],
    "words beside a call": [f"Let me see.\n{CALL}", "Done."],
}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_MODELS[TINY_AGENTS])


def lead(tokenizer, script, factory=HelpDesk):
    """The dialogue of a script, and all of its text."""
    row = {"prompt": [{"role": "user", "content": TASK.request}], "task": TASK.to_json()}
    dialogue = Dialogue(factory(), row, tokenizer, HERMES)
    for number, text in enumerate(script, start=1):
        if not dialogue.take(text):
            assert number == len(script)
            return dialogue, dialogue.prompt + text + tokenizer.eos_token
    return dialogue, dialogue.prompt


@pytest.fixture(scope="module", params=["its own", "qwen3"])
def rollout(request, tokenizer, tmp_path_factory):
    """All scripts in TRL's loop, with the tiny model's template and with that of Qwen3."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODELS[TINY_AGENTS])
    if request.param != "its own":
        tokenizer.chat_template = TEMPLATES[request.param]
    row = {"prompt": [{"role": "user", "content": TASK.request}], "task": TASK.to_json()}
    trainer = ScriptedTrainer(
        AutoModelForCausalLM.from_pretrained(TINY_MODELS[TINY_AGENTS]),
        args=ResTGRPOConfig(
            str(tmp_path_factory.mktemp("run")),
            use_cpu=True,
            bf16=False,
            report_to="none",
            per_device_train_batch_size=len(SCRIPTS),
            num_generations=len(SCRIPTS),
            max_completion_length=2048,
            credit="turn",
        ),
        train_dataset=load_tasks(size=2).map(lambda _: row),
        processing_class=tokenizer,
        environment_factory=HelpDesk,
    )
    trainer.play(SCRIPTS.values())
    return trainer, tokenizer, roll_out(trainer, len(SCRIPTS))


class TestDialogue:
    def test_reads_and_ends_as_trl_s_loop_does(self, rollout):
        trainer, tokenizer, output = rollout
        assert not any(trainer._pending)
        for row, script in enumerate(SCRIPTS.values()):
            dialogue, text = lead(tokenizer, script)
            ids = [*output["prompt_ids"][row], *output["completion_ids"][row]]
            mask = [*output["prompt_mask"][row], *output["completion_mask"][row]]
            seen = tokenizer.decode([token for token, inside in zip(ids, mask, strict=True) if inside])
            assert seen == text
            assert dialogue.environment.get_reward() == trainer.environments[row].get_reward()
            assert dialogue.environment.turn_rewards() == trainer.environments[row].turn_rewards()

    def test_counts_calls_and_what_is_invalid_among_them(self, tokenizer):
        counts = {name: lead(tokenizer, script)[0] for name, script in SCRIPTS.items()}
        found = {name: (sum(map(len, one.calls)), one.invalid) for name, one in counts.items()}
        assert found == {
            "the plan": (4, 0),
            "an answer at once": (0, 0),
            "a call that fails": (5, 1),
            "an unknown tool": (1, 1),
            "unknown parameters": (1, 1),
            "a call beside one that fails": (2, 1),
            "a broken call": (1, 2),
            "words beside a call": (1, 1),
        }

    def test_of_the_plan_succeeds(self, tokenizer):
        assert lead(tokenizer, GOLD)[0].environment.get_reward() == 1
        assert lead(tokenizer, GOLD[:-2])[0].environment.get_reward() == 0

    def test_carries_out_nothing_of_a_turn_that_is_cut_off(self, tokenizer):
        dialogue, *_ = lead(tokenizer, [])
        assert not dialogue.take(GOLD[0], is_cut_off=True)
        assert dialogue.environment.turn_rewards() == [0.0]

    def test_shows_what_reset_says(self, tokenizer):
        class Talkative(HelpDesk):
            def reset(self, task, **kwargs):
                super().reset(task)
                return " It is Monday."

        assert f"{TASK.request} It is Monday.<|im_end|>" in lead(tokenizer, [], Talkative)[1]

    def test_refuses_images_and_asynchronous_tools(self, tokenizer):
        class Pictures(HelpDesk):
            def reset(self, task, **kwargs):
                return [{"type": "image"}]

        class Slow(HelpDesk):
            async def get_owner(self, ticket: int) -> str:
                return ""

        with pytest.raises(ValueError, match=r"Pictures.reset gave images"):
            lead(tokenizer, [], Pictures)
        with pytest.raises(ValueError, match=r"Slow.get_owner is asynchronous.*plain method"):
            tools_of(Slow())


class TestDemonstrations:
    def test_are_what_the_policy_sees_in_the_loop(self, tokenizer):
        """A warm start on steps that are rendered otherwise would teach the wrong thing."""
        from rest_trl.lab.tiny.tokenization import render_prompt

        for task in islice(generate_tasks("train"), 50):
            row = {"prompt": [{"role": "user", "content": task.request}], "task": task.to_json()}
            dialogue = Dialogue(HelpDesk(), row, tokenizer, HERMES)
            for step in play(task):
                assert dialogue.prompt == render_prompt(step, tokenizer)
                dialogue.take(step.solution)
