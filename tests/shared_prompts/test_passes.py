import logging
import random

import pytest
import torch
from accelerate import Accelerator
from shared_prompts.families import FAMILIES, make_model, micro_batch, random_rows
from shared_prompts.test_attention import separate
from transformers import AutoConfig, AutoModelForCausalLM

from rest_trl.shared_prompts import passes
from rest_trl.shared_prompts.passes import SharedPrompts, objection, whole_groups


TWO_GROUPS = [list(range(3, 33))] * 2 + [list(range(40, 60))] * 2, [[61], [62, 63], [64], [65]]
NOTHING_SHARED = [[3] * 20, [4] * 20], [[61, 62], [63]]


def separate_scores(model, ids, mask, kept, compute_entropy=False, compute_aux_loss=False):
    logps, entropies, aux_loss = separate(model, ids, mask, kept, compute_aux_loss)
    return logps, entropies if compute_entropy else None, aux_loss


def sharing(model, mode="auto", **objections):
    return SharedPrompts(mode, [model], Accelerator(cpu=True), objections)


class TestObjection:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_is_absent_for_models_of_full_or_sliding_attention(self, family):
        assert objection(make_model(family)) is None

    @pytest.mark.parametrize(
        ("model_type", "settings", "reason"),
        [
            ("mamba", {}, "without full or sliding attention"),
            (
                "lfm2",
                {"num_attention_heads": 2, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
                r"\(conv\)",
            ),
            ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"]}, r"\(linear_attention\)"),
            ("gpt2", {"n_head": 2, "n_embd": 16, "n_layer": 1}, "no rotary positions"),
        ],
    )
    def test_names_what_a_model_lacks(self, model_type, settings, reason):
        small = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16}
        config = AutoConfig.for_model(model_type, **(small | settings))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        with pytest.raises(ValueError, match=reason):
            sharing(model, "true")

    def test_names_an_implementation_of_attention_that_is_not_supported(self):
        model = make_model("qwen3")
        model.config._attn_implementation = "flash_attention_2"
        with pytest.raises(ValueError, match=r"flash_attention_2.*sdpa, eager"):
            sharing(model, "true")

    def test_is_logged_once_in_auto_mode_and_the_model_stays_as_it_was(self, caplog):
        model = make_model("qwen3")
        with caplog.at_level(logging.WARNING):
            shared = sharing(model, **{"the policy is square": True, "nobody asks": False})
        assert not shared.is_on
        assert len(caplog.records) == 1
        assert "the policy is square, so each row is computed with a prompt of its own" in caplog.text
        assert model.config._attn_implementation == "sdpa"


class TestScores:
    @pytest.mark.parametrize("seed", range(10))
    @pytest.mark.parametrize("batch_size", [None, 3])
    def test_are_those_of_separate_rows(self, seed, batch_size):
        model, rows = make_model("qwen3"), random_rows(seed)
        expected = separate_scores(model, *rows, compute_entropy=True)
        shared = sharing(model)
        actual = shared.scores(separate_scores, model, *rows, batch_size, compute_entropy=True)
        assert (actual[0] - expected[0]).abs().max() <= 2e-5
        assert (actual[1] - expected[1]).abs().max() <= 2e-5
        assert actual[2] is None

    @pytest.mark.parametrize("rows", [NOTHING_SHARED, ([[3] * 30] * 2, [[], []]), ([[3] * 30], [[4]])])
    def test_are_bit_equal_where_nothing_is_shared(self, rows):
        model, rows = make_model("qwen3"), micro_batch(*rows)
        expected = separate_scores(model, *rows, compute_entropy=True)
        shared = sharing(model)
        actual = shared.scores(separate_scores, model, *rows, compute_entropy=True)
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])
        assert not shared.is_checked
        assert shared.num_tokens == rows[0].numel()

    def test_have_the_auxiliary_loss_where_it_is_asked_for(self):
        model, rows = make_model("qwen3 moe"), random_rows(3)
        expected = separate_scores(model, *rows, compute_aux_loss=True)
        actual = sharing(model).scores(separate_scores, model, *rows, compute_aux_loss=True)
        assert (actual[2] - expected[2]).abs() <= 1e-6

    def test_count_the_tokens_of_passes_with_gradients(self):
        model, rows = make_model("qwen3"), micro_batch(*TWO_GROUPS)
        shared = sharing(model)
        with torch.no_grad():
            shared.scores(separate_scores, model, *rows)
        assert shared.num_tokens == 0
        shared.scores(separate_scores, model, *rows)
        assert shared.num_tokens == 29 + 1 + 2 + 19 + 1 + 1

    def test_are_separate_for_rows_without_a_prompt(self):
        model, rows = make_model("qwen3"), micro_batch([[3] * 30, [3] * 30, []], [[4], [5], [6]])
        expected = separate_scores(model, *rows)
        assert torch.equal(sharing(model).scores(separate_scores, model, *rows)[0], expected[0])


class TestCheck:
    def off_by(self, monkeypatch, amount):
        packed = passes.packed_scores

        def wrong(*arguments):
            logps, *others = packed(*arguments)
            return logps + amount, *others

        monkeypatch.setattr(passes, "packed_scores", wrong)

    def test_switches_sharing_off_where_a_model_computes_something_else(self, monkeypatch, caplog):
        model, rows = make_model("qwen3"), micro_batch(*TWO_GROUPS)
        expected = separate_scores(model, *rows)
        self.off_by(monkeypatch, 0.01)
        shared = sharing(model)
        with caplog.at_level(logging.WARNING):
            actual = shared.scores(separate_scores, model, *rows)
        assert torch.equal(actual[0], expected[0])
        assert not shared.is_on
        assert "differ by 0.0" in caplog.text

    def test_refuses_where_sharing_is_demanded(self, monkeypatch):
        model, rows = make_model("qwen3"), micro_batch(*TWO_GROUPS)
        self.off_by(monkeypatch, torch.nan)
        with pytest.raises(ValueError, match="differ by inf"):
            sharing(model, "true").scores(separate_scores, model, *rows)

    def test_finds_an_attention_that_ignores_the_tree(self, monkeypatch, caplog):
        """What a model does that loses the tree on the way: each row sees all rows before it."""
        model, rows = make_model("qwen3"), micro_batch(*TWO_GROUPS)
        shared = sharing(model)
        build = passes.build_tree

        def flat(*arguments):
            tree = build(*arguments)
            places = torch.arange(tree.num_tokens)
            tree.families = [type(tree.families[0])([], places[None])]
            tree.back = places
            return tree

        monkeypatch.setattr(passes, "build_tree", flat)
        with caplog.at_level(logging.WARNING):
            shared.scores(separate_scores, model, *rows)
        assert not shared.is_on

    def test_is_made_once_without_dropout_and_leaves_the_model_in_training(self):
        model, rows = make_model("qwen3", attention_dropout=0.5), micro_batch(*TWO_GROUPS)
        shared = sharing(model)
        state = torch.get_rng_state()
        with torch.no_grad():
            first = shared.scores(separate_scores, model, *rows)
            torch.set_rng_state(state)
            again = shared.scores(separate_scores, model, *rows)
        assert shared.is_on
        assert shared.is_checked
        assert model.training
        assert torch.equal(first[0], again[0])


class TestWholeGroups:
    def micro_batches(self, seed):
        rng = random.Random(seed)
        prompts = [[10 + group] * 20 for group in range(4) for _ in range(4)]
        completions = [[30 + group, *[40 + row // 2] * 20, 50 + row] for group in range(4) for row in range(4)]
        order = rng.sample(range(16), 16)
        ids, mask, kept = micro_batch([prompts[i] for i in order], [completions[i] for i in order])
        rows = {
            "prompt_ids": ids[:, :-kept],
            "prompt_mask": mask[:, :-kept],
            "completion_ids": ids[:, -kept:],
            "completion_mask": mask[:, -kept:],
            "advantages": torch.arange(16.0),
        }
        batches = [{name: value[i : i + 2] for name, value in rows.items()} for i in range(0, 16, 2)]
        return [batch | {"num_items_in_batch": mask.sum(), "absent": None, "names": [1, 2]} for batch in batches]

    @pytest.mark.parametrize("seed", range(5))
    def test_keep_prompts_and_branches_together_in_the_order_of_the_shuffle(self, seed):
        before = self.micro_batches(seed)
        after = whole_groups(before)
        assert len(after) == 8
        shown = [int(prompt) for batch in before for prompt in batch["prompt_ids"][:, 0]]
        pairs = [batch["prompt_ids"][:, 0].tolist() for batch in after]
        assert pairs[::2] == pairs[1::2] == [[prompt] * 2 for prompt in dict.fromkeys(shown)]
        assert all((batch["completion_ids"][:, 1] == batch["completion_ids"][0, 1]).all() for batch in after)

    def test_move_all_columns_of_a_row_together(self):
        before = self.micro_batches(0)
        after = whole_groups(before)
        rows = {}
        for batches in (before, after):
            for batch in batches:
                for row, advantage in enumerate(batch["advantages"].tolist()):
                    columns = [
                        batch[name][row].tolist() for name in ("prompt_ids", "completion_ids", "completion_mask")
                    ]
                    assert rows.setdefault(advantage, columns) == columns
        assert len(rows) == 16
        assert after[0]["num_items_in_batch"] == before[0]["num_items_in_batch"]
        assert after[0]["absent"] is None


class TestRegrouped:
    def test_are_whole_groups(self):
        before = TestWholeGroups().micro_batches(0)
        after = sharing(make_model("qwen3")).regrouped(before)
        for actual, expected in zip(after, whole_groups(before), strict=True):
            assert torch.equal(actual["advantages"], expected["advantages"])

    def test_stay_as_trl_shuffled_them_where_nothing_is_saved(self):
        before = TestWholeGroups().micro_batches(0)
        assert sharing(make_model("qwen3"), **{"it is Sunday": True}).regrouped(before) is before
        single = [{name: batch[name][:1] for name in batch if name[:6] in ("prompt", "comple")} for batch in before]
        assert sharing(make_model("qwen3")).regrouped(single) is single
