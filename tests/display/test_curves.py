import pytest
from matplotlib import figure

from rest_trl.lab.display.colors import COLORS
from rest_trl.lab.display.curves import plot_curves, smoothed
from rest_trl.tool_calls import Region


@pytest.fixture
def axes(monkeypatch):
    """The axes of the last picture that was saved."""
    kept = []
    savefig = figure.Figure.savefig

    def keep(self, *args, **kwargs):
        kept[:] = self.axes
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(figure.Figure, "savefig", keep)
    return kept


def history(steps):
    logs = [
        {
            "step": step,
            "rest/progress": 0.0,
            "reward": float(step % 5),
            "rewards/layout_reward/mean": 1.0,
            "rewards/my_own/mean": 2.0,
            "rest/reward/layout": 0.5,
            "rest/entropy/format": 0.1,
            "rest/coefficient/format": 1.2,
        }
        for step in range(1, steps + 1)
    ]
    return [*logs, {"step": steps, "train_loss": 0.0}]


def labelled(axis):
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


class TestPlotCurves:
    def test_shows_rewards_beside_unscaled_scores(self, axes, tmp_path):
        plot_curves(history(50), tmp_path / "curves.png")
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
        rewards, scores = labelled(axes[0]), labelled(axes[1])
        assert rewards.keys() == {"sum", "layout", "my_own"} and scores.keys() == {"layout"}
        assert rewards["layout"].get_color() == scores["layout"].get_color() != rewards["my_own"].get_color()

    def test_draws_a_baseline_in_dashes_of_the_same_colours(self, axes, tmp_path):
        plot_curves(history(50), tmp_path / "curves.png", history(20), "GRPO")
        for axis, label in zip(axes[:3], ("sum", "layout", "format"), strict=True):
            dashed = [line for line in axis.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
            assert [line.get_color() for line in dashed] == [labelled(axis)[label].get_color()]
            assert list(dashed[0].get_xdata()) == list(range(1, 21))
            assert labelled(axis)["GRPO"].get_linestyle() == "--"
        assert "GRPO" not in labelled(axes[3])

    def test_has_the_colours_of_the_regions(self, axes, tmp_path):
        plot_curves(history(50), tmp_path / "curves.png")
        for axis in axes[2:]:
            assert labelled(axis)["format"].get_color() == COLORS[Region.FORMAT].line

    @pytest.mark.parametrize(
        ("coefficient", "title"), [(2.0, "Mean coefficient"), (1.0, "Mean size of the advantage")]
    )
    def test_shows_advantages_where_coefficients_are_uniform(self, axes, tmp_path, coefficient, title):
        own = {"rest/coefficient/format": coefficient, "rest/advantage/format": 0.7}
        logs = [log | own if "rest/progress" in log else log for log in history(3)]
        plot_curves(logs, tmp_path / "curves.png")
        assert axes[3].get_title() == f"{title} per region"
        assert list(labelled(axes[3])["format"].get_ydata()) == [coefficient if coefficient > 1 else 0.7] * 3

    def test_lays_a_smoothed_line_over_the_points(self, axes, tmp_path):
        plot_curves(history(50), tmp_path / "curves.png")
        raw, smooth = (line for line in axes[0].lines if line.get_color() == "black")
        assert raw.get_alpha() < 0.5 and list(raw.get_ydata()) == [float(step % 5) for step in range(1, 51)]
        assert smooth.get_alpha() is None and list(smooth.get_ydata()) == smoothed(raw.get_ydata())

    def test_names_the_run_and_covers_no_line(self, axes, tmp_path):
        plot_curves(history(50), tmp_path / "curves.png", history(50), "GRPO", name="run 7, arm region")
        assert axes[0].figure.get_suptitle() == "run 7, arm region"
        width = axes[0].figure.bbox.width
        for axis in axes:
            legend, lines = axis.get_legend().get_window_extent(), axis.get_window_extent()
            assert not legend.overlaps(lines) and legend.x1 <= width

    def test_shows_few_points_as_they_are(self, axes, tmp_path):
        plot_curves(history(3), tmp_path / "curves.png")
        assert len(axes[2].lines) == 1

    def test_says_where_nothing_was_logged(self, axes, tmp_path):
        plot_curves([{"step": 1, "rest/progress": 0.0, "reward": 1.0}], tmp_path / "curves.png")
        assert [text.get_text() for text in axes[1].texts] == ["none logged"] and not axes[0].texts

    def test_leaves_nothing_behind_if_it_fails(self, tmp_path, monkeypatch):
        def fail(self, path, **kwargs):
            path.write_text("half")
            raise OSError("No space left on device")

        monkeypatch.setattr(figure.Figure, "savefig", fail)
        with pytest.raises(OSError, match="No space"):
            plot_curves(history(3), tmp_path / "curves.png")
        assert list(tmp_path.iterdir()) == []


class TestSmoothed:
    def test_keeps_a_trend_and_the_ends(self):
        assert smoothed([float(i) for i in range(40)]) == pytest.approx(list(range(40)))

    def test_evens_out_noise(self):
        values = [float(i % 2) for i in range(100)]
        assert max(smoothed(values)[10:90]) < 0.6
