import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerControl, TrainerState

from rest_trl.lab.sampling import sample
from rest_trl.lab.study.accuracy import HeldOutCalls, HeldOutDialogues
from rest_trl.lab.study.seeds import HELD_OUT, KINDS
from rest_trl.lab.tiny import TINY_AGENTS, TINY_MODEL_DIR, TINY_MODELS, load_tiny_dataset
from rest_trl.lab.tiny.agents import HelpDesk, OutcomeHelpDesk, Task, load_tasks
from rest_trl.lab.tiny.agents.dialogues import play


@pytest.fixture(scope="module")
def trainer():
    return SimpleNamespace(
        model=AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR),
        processing_class=AutoTokenizer.from_pretrained(TINY_MODEL_DIR, padding_side="left"),
        tool_call_syntax="hermes",
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        args=SimpleNamespace(generation_batch_size=16, max_completion_length=64),
    )


def spied_sample(monkeypatch):
    """Whether each call of the sampling has added special tokens."""
    added = []

    def spied(*args, **kwargs):
        added.append(kwargs["add_special_tokens"])
        return sample(*args, **kwargs)

    monkeypatch.setattr("rest_trl.lab.study.accuracy.sample", spied)
    return added


class TestHeldOut:
    def test_reads_prompts_of_text_as_the_training_does(self, trainer, monkeypatch):
        added = spied_sample(monkeypatch)
        HeldOutCalls(trainer, load_tiny_dataset("test", 24), 2).measure()
        assert added == [True, True]

    def test_is_the_same_every_time_and_leaves_the_random_state_alone(self, trainer):
        held_out = HeldOutCalls(trainer, load_tiny_dataset("test", 24), 2)
        torch.manual_seed(0)
        expected = torch.rand(3).tolist()
        torch.manual_seed(0)
        first = held_out.measure()
        assert torch.rand(3).tolist() == expected
        assert held_out.measure() == first and 0 < first[HELD_OUT] < 1
        assert set(first) == {HELD_OUT, *(HELD_OUT + kind for kind in KINDS)}

    def test_no_completion_that_was_cut_off_is_exact(self, trainer, monkeypatch):
        rows = load_tiny_dataset("test", 24)
        held_out, ends = HeldOutCalls(trainer, rows, 1), [[trainer.processing_class.eos_token_id], []]
        for end, share in zip(ends, (1.0, 0.0), strict=True):
            golds = iter([trainer.processing_class(gold).input_ids + end for gold in rows["solution"]])
            monkeypatch.setattr(held_out, "_sample", lambda prompts, golds=golds, **_: [next(golds) for _ in prompts])
            assert set(held_out.measure().values()) == {share}

    def test_is_measured_evenly_and_at_the_end(self, trainer, monkeypatch):
        held_out = HeldOutCalls(trainer, load_tiny_dataset("test", 4), 2)
        monkeypatch.setattr(held_out, "measure", lambda: {HELD_OUT: 0.5})
        state = TrainerState(max_steps=5)
        for step in range(1, 6):
            state.global_step = step
            held_out.on_step_end(SimpleNamespace(), state, TrainerControl())
        assert state.log_history == [{"step": 2, HELD_OUT: 0.5}, {"step": 5, HELD_OUT: 0.5}]

    def test_refuses_messages(self, trainer):
        rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "hi"}], "solution": ""}])
        with pytest.raises(ValueError, match="messages, not text"):
            HeldOutCalls(trainer, rows, 1)


@pytest.fixture(scope="module")
def agent_trainer():
    agent = AutoModelForCausalLM.from_pretrained(TINY_MODELS[TINY_AGENTS])
    return SimpleNamespace(
        model=agent,
        processing_class=AutoTokenizer.from_pretrained(TINY_MODELS[TINY_AGENTS], padding_side="left"),
        tool_call_syntax="hermes",
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        args=SimpleNamespace(
            generation_batch_size=16,
            max_completion_length=64,
            max_tool_calling_iterations=4,
            chat_template_kwargs={},
        ),
    )


class TestHeldOutDialogues:
    def test_are_the_same_every_time_and_leave_the_random_state_alone(self, agent_trainer):
        held_out = HeldOutDialogues(agent_trainer, load_tasks("test", 24), 2, OutcomeHelpDesk)
        torch.manual_seed(0)
        expected = torch.rand(3).tolist()
        torch.manual_seed(0)
        first = held_out.measure()
        assert torch.rand(3).tolist() == expected
        assert held_out.measure() == first and 0 < first[HELD_OUT] < 1
        assert held_out.outcome == "rewards/OutcomeHelpDesk/mean"

    def test_read_what_the_template_has_written_as_it_is(self, agent_trainer, monkeypatch):
        added = spied_sample(monkeypatch)
        HeldOutDialogues(agent_trainer, load_tasks("test", 2), 1, OutcomeHelpDesk).measure()
        assert added and not any(added)

    def test_are_led_with_what_the_policy_samples(self, agent_trainer, monkeypatch):
        tasks = load_tasks("test", 20)
        plans = [[step.solution for step in play(Task(**json.loads(row["task"])))] for row in tasks]
        held_out = HeldOutDialogues(agent_trainer, tasks, 1, HelpDesk)
        tokenizer, seeds = agent_trainer.processing_class, []
        pending = {row["prompt"][0]["content"]: list(plan) for row, plan in zip(tasks, plans, strict=True)}

        def sample(prompts, seed):
            seeds.append(seed)
            requests = [prompt.split("<|im_start|>user\n")[1].split("<|im_end|>")[0] for prompt in prompts]
            texts = [pending[request].pop(0) for request in requests]
            return [tokenizer(text + tokenizer.eos_token).input_ids for text in texts]

        monkeypatch.setattr(held_out, "_sample", sample)
        assert held_out.measure() == {HELD_OUT: 1}
        assert len(set(seeds)) == len(seeds)

    def test_need_an_outcome(self, agent_trainer):
        class Silent:
            def reset(self, **kwargs):
                pass

        with pytest.raises(ValueError, match=r"Silent has no get_reward.*returns 1 for a success"):
            HeldOutDialogues(agent_trainer, load_tasks("test", 4), 1, Silent)
