import pytest
import torch
from shared_prompts.families import FAMILIES, make_model, micro_batch, random_rows

from rest_trl.shared_prompts.attention import IMPLEMENTATIONS
from rest_trl.shared_prompts.passes import packed_scores
from rest_trl.shared_prompts.tree import build_tree


def separate(model, ids, mask, kept, aux_loss=False):
    """What TRL computes: each row by itself."""
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-kept] = -100
    router = {"output_router_logits": True} if aux_loss else {}
    outputs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, **router)
    return outputs.log_probs[:, -kept:], outputs.entropy[:, -kept:], outputs.aux_loss


def together(model, ids, mask, kept, aux_loss=False):
    tree = build_tree(ids, mask, kept, aux_loss)
    return packed_scores(model, tree, torch.enable_grad(), True, aux_loss)


def scores_and_gradients(model, scores, mask, kept):
    """Scores, and the gradient of a loss of all of them."""
    logps, entropies, aux_loss = scores
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(2, *logps.shape, generator=generator) * mask[:, -kept:]
    (weights[0] * logps + weights[1] * entropies).sum().add(0 if aux_loss is None else aux_loss).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return logps.detach(), entropies.detach(), aux_loss, gradient


def assert_exact(model, rows, aux_loss=False):
    _, mask, kept = rows
    expected = scores_and_gradients(model, separate(model, *rows, aux_loss), mask, kept)
    implementation = model.config._attn_implementation
    model.set_attn_implementation(IMPLEMENTATIONS.get(implementation, implementation))
    actual = scores_and_gradients(model, together(model, *rows, aux_loss), mask, kept)
    assert (actual[0] - expected[0]).abs().max() <= 2e-5
    assert (actual[1] - expected[1]).abs().max() <= 2e-5
    assert (actual[3] - expected[3]).norm() <= 1e-5 * expected[3].norm()
    if aux_loss:
        assert (actual[2] - expected[2]).abs() <= 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_gradients_are_those_of_separate_rows(family):
    assert_exact(make_model(family), random_rows(3))


@pytest.mark.parametrize("seed", range(20))
def test_scores_and_gradients_are_those_of_separate_rows_for_random_groups(seed):
    assert_exact(make_model("qwen3"), random_rows(seed + 100))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("family", ["gpt-oss", "qwen3 moe"])
def test_the_auxiliary_loss_is_that_of_separate_rows(family, seed):
    assert_exact(make_model(family), random_rows(seed), aux_loss=True)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["qwen3", "gpt-oss"])
def test_checkpointing_recomputes_the_same_pass(family, reentrant):
    model = make_model(family)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert_exact(model, random_rows(3))


@pytest.mark.parametrize("family", ["qwen3", "qwen3 eager", "gpt-oss"])
def test_ordinary_passes_are_bit_equal(family):
    model = make_model(family)
    ids, mask, kept = random_rows(3)
    expected = separate(model, ids, mask, kept)
    model.set_attn_implementation(IMPLEMENTATIONS[model.config._attn_implementation])
    actual = separate(model, ids, mask, kept)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


def test_generation_is_the_same():
    model = make_model("qwen3").eval()
    ids, mask, _ = micro_batch([list(range(3, 20)), list(range(30, 40))], [[], []])
    arguments = {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1], "max_new_tokens": 8, "do_sample": False}
    expected = model.generate(**arguments)
    model.set_attn_implementation("tree_sdpa")
    assert torch.equal(model.generate(**arguments), expected)


def test_a_saved_model_keeps_its_own_implementation(tmp_path):
    model = make_model("qwen3")
    model.set_attn_implementation("tree_sdpa")
    model.save_pretrained(tmp_path)
    assert "tree" not in (tmp_path / "config.json").read_text()


def test_a_model_that_loses_the_tree_fails():
    model = make_model("qwen3")  # whose attention is not that of the tree
    with pytest.raises(RuntimeError):
        together(model, *random_rows(3))


def test_autocast_differs_by_rounding_only():
    model, rows = make_model("qwen3"), random_rows(3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = separate(model, *rows)[0]
        model.set_attn_implementation("tree_sdpa")
        actual = together(model, *rows)[0]
    scored = rows[1][:, -rows[2] :].bool()
    exact = separate(model, *rows)[0]
    assert (actual - exact)[scored].abs().mean() <= 1.5 * (expected - exact)[scored].abs().mean()
