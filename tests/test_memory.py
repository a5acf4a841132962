import json
from dataclasses import replace

import pytest
import torch
from benchmarks import gpu, trajectories
from benchmarks.memory import CASES, TARGET, Case, make_trainer, measure, peak_bytes, smallest

from rest_trl.regions import region_sums
from rest_trl.tool_calls import Region


class TestTracker:
    def test_counts_every_byte(self):
        def two_tensors():
            first = torch.zeros(1000, dtype=torch.float32)
            del first
            second, third = torch.zeros(500, dtype=torch.float64), torch.zeros(7, dtype=torch.int8)
            return second, third

        assert peak_bytes(two_tensors) == 4007

    def test_sees_temporaries_inside_operators(self):
        values = torch.zeros(1000)
        assert peak_bytes(lambda: torch.logsumexp(values.view(10, 100), 1)) > 10 * 4

    def test_leaves_out_the_end_of_what_an_earlier_call_made(self):
        kept = []
        peak_bytes(lambda: kept.append(torch.zeros(5000)))

        def freed_then_made():
            kept.clear()
            return torch.zeros(100)

        assert peak_bytes(freed_then_made) == 400

    def test_is_the_same_in_every_run(self):
        case = smallest(Case("full", length=256))
        assert measure("GRPO", case) == measure("GRPO", case)

    def test_sees_what_a_step_keeps(self, tmp_path):
        case, kept = smallest(Case("full", length=256)), 5_000_000

        def train(extra):
            trainer = make_trainer("ResT", case, str(tmp_path))
            found = trainer.rule

            def coefficients(mask, **kwargs):
                trainer.kept = torch.zeros(extra, dtype=torch.int8)
                return found(mask=mask, **kwargs)

            trainer.rule = coefficients
            trainer.train()

        without, with_kept = (peak_bytes(lambda extra=extra: train(extra)) for extra in (0, kept))
        # Twice: the old tensor is held while the new one is made.
        assert kept <= with_kept - without <= 2 * kept
        assert with_kept / without > TARGET


def shortened(case: Case) -> Case:
    """The case with fewer tokens, which take less time; the bounds hold for every length."""
    return replace(case, length=512) if case.length < 4096 else case


class TestPeak:
    # The first has a vocabulary of 32,768: its peak is at the logits.
    @pytest.mark.parametrize(
        "case",
        [replace(CASES[0], length=256), *(shortened(smallest(case)) for case in CASES)],
        ids=lambda case: case.name,
    )
    def test_is_at_most_half_a_percent_over_grpo(self, case):
        (grpo, grpo_buffer), (rest, rest_buffer) = (measure(arm, case) for arm in ("GRPO", "ResT"))
        tokens = 2 * case.length
        assert grpo < rest <= TARGET * grpo
        assert rest_buffer - grpo_buffer == tokens  # an int8 per token
        # At the peak no more is alive than that and one float32 per token of the micro-batch of one completion.
        assert rest - grpo <= tokens + 4 * case.length + 1024

    def test_of_region_credit_is_one_float32_per_token_more(self):
        case = smallest(Case("full", length=256))
        (rest, rest_buffer), (credit, credit_buffer) = (measure(arm, case) for arm in ("ResT", "region credit"))
        # A float32 per token in place of one per completion.
        tokens = 2 * case.length
        assert credit_buffer - rest_buffer == 4 * (tokens - 2)
        assert 0 < credit - rest <= 4 * tokens + 1024


class TestTrajectories:
    @pytest.mark.parametrize("length", [512, 2048])
    def test_take_a_few_bytes_per_token_at_every_length(self, length):
        added = trajectories.peak("ResT", length) - trajectories.peak("GRPO", length)
        # Of both completions an int8 for the part and a float32 for the advantage, of one a float32 for the
        # coefficient.
        assert 0 < added <= 7 * 2 * length + 1024


class TestRegionSums:
    def test_take_no_tensor_of_all_regions(self):
        region_ids = torch.arange(8192).remainder(len(Region)).to(torch.int8).view(8, 1024)
        entropies = torch.rand(8, 1024)
        assert peak_bytes(lambda: region_sums(region_ids, entropies, entropies)) <= 10 * region_ids.numel()

    def test_are_the_sums_over_each_region(self):
        generator = torch.Generator().manual_seed(0)
        region_ids = torch.randint(0, 5, (8, 100), dtype=torch.int8, generator=generator)
        values = torch.rand(8, 100, generator=generator)
        values[0, 0], values[1, 0] = float("nan"), float("inf")
        sums = region_sums(region_ids, values)
        assert sums.shape == (3, len(Region))
        assert sums[:, Region.NONE].eq(0).all()
        for region in list(Region)[1:]:
            inside = region_ids == region
            finite = inside & values.isfinite()
            assert sums[:2, region].tolist() == [inside.sum(), finite.sum()]
            assert sums[2, region].item() == pytest.approx(values[finite].double().sum().item(), rel=1e-6)


class TestGpuBenchmark:
    def test_runs_small_on_a_cpu(self, tmp_path, capsys):
        output = tmp_path / "gpu.json"
        sizes = ["--completions", "8", "--length", "256", "--micro_batch_size", "4", "--pairs", "2"]
        gpu.main(["--device", "cpu", "--tiny", *sizes, "--output", str(output)])
        figures = json.loads(output.read_text())
        assert [len(times) for times in figures["all_step_seconds"].values()] == [2, 2]
        low, high = figures["time_ratio_interval"]
        assert 0 < low <= figures["time_ratio"] <= high
        assert 1 < figures["memory_ratio"] < 1.05, figures["peak_bytes"]
        assert 0 < figures["partition_share"] < 1
        assert "| peak memory, GB |" in capsys.readouterr().out

    def test_says_so_without_a_gpu(self, capsys, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(SystemExit):
            gpu.main([])
        assert "torch sees no GPU" in capsys.readouterr().err
