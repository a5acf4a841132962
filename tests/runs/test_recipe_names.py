import os
import re
import sys
from pathlib import Path

import pytest

from rest_trl import cli
from rest_trl.lab.doctor import examine
from rest_trl.lab.study.arms import load_study
from rest_trl.runs import recipes
from rest_trl.runs.launching import split_accelerate_config
from rest_trl.runs.listing import TABLES, main, read_head, read_table
from rest_trl.runs.recipes import find_recipe, recipe_names, recipes_dir
from rest_trl.train import main as train
from rest_trl.train import make_parser


ROOT = Path(__file__).resolve().parents[2]
RECIPES = [name for name in recipe_names() if not name.startswith("accelerate/") and name not in TABLES]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working directory outside of the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestFindRecipe:
    @pytest.mark.parametrize("name", ["demo", "demo.yaml", "recipes/demo.yaml", "recipes/demo"])
    def test_knows_a_recipe_by_its_name_outside_of_the_repository(self, elsewhere, name):
        assert find_recipe(name) == ROOT / "recipes" / "demo.yaml"

    def test_a_file_goes_before_a_name(self, elsewhere):
        (elsewhere / "demo").write_text("max_steps: 3")
        assert find_recipe("demo").resolve() == elsewhere / "demo"

    def test_a_pipe_is_a_file_and_a_folder_is_none(self, elsewhere):
        os.mkfifo(elsewhere / "pipe")
        assert find_recipe("pipe") == Path("pipe")
        (elsewhere / "demo").mkdir()
        assert find_recipe("demo") == ROOT / "recipes" / "demo.yaml"

    def test_names_of_folders_have_their_folder(self, elsewhere):
        assert find_recipe("tiny/decides") == ROOT / "recipes" / "tiny" / "decides.yaml"
        with pytest.raises(FileNotFoundError, match=r"there is no file decides, .*rest-trl recipes lists them"):
            find_recipe("decides")

    def test_a_misspelt_name_is_named_with_the_nearest(self, elsewhere):
        with pytest.raises(FileNotFoundError, match=r"no recipe of this name: do you mean qwen3_1.7b_smoke\?"):
            find_recipe("qwen3_1.7b_smok")

    @pytest.mark.parametrize("name", ["/demo.yaml", "other/demo.yaml", "../recipes/demo.yaml", ""])
    def test_another_path_is_not_taken_for_a_name(self, elsewhere, name):
        with pytest.raises(FileNotFoundError):
            find_recipe(name)

    def test_an_installed_package_has_its_own_folder(self, tmp_path, monkeypatch):
        folder = tmp_path / "site-packages" / "rest_trl" / "recipes"
        folder.mkdir(parents=True)
        (folder / "demo.yaml").write_text("max_steps: 1")
        monkeypatch.setattr(recipes, "__file__", str(folder.parent / "runs" / "recipes.py"))
        assert recipes_dir() == folder and recipe_names() == ["demo"]

    def test_a_package_without_recipes_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr(recipes, "__file__", str(tmp_path / "rest_trl" / "runs" / "recipes.py"))
        with pytest.raises(FileNotFoundError, match="there are no recipes in"):
            find_recipe("demo")


class TestCommandsThatTakeNames:
    def test_training_takes_a_name(self, elsewhere):
        for arguments in (["--config", "demo"], ["--config=demo"]):
            script_args, training_args, _ = make_parser().parse_args_and_config([*arguments, "--max_steps", "3"])
            assert (script_args.dataset_name, training_args.max_steps) == ("tiny", 3)

    def test_training_takes_arms(self, elsewhere):
        for arguments in (["--config", "demo", "--arm", "gdpo"], ["--arm=gdpo", "--config=demo"]):
            _, args, _ = make_parser().parse_args_and_config([*arguments, "--max_steps", "3"])
            assert (args.multi_objective_aggregation, args.max_steps) == ("normalize_then_sum", 3)
            assert args.output_dir == "outputs/demo-gdpo"

    def test_the_command_line_overrides_an_arm_and_an_arm_the_recipe(self, elsewhere):
        arguments = ["--config", "demo", "--arm", "rest", "--arm", "kl", "--beta", "0.5", "--output_dir", "mine"]
        _, args, _ = make_parser().parse_args_and_config(arguments)
        assert (args.credit, args.coefficients, args.beta, args.output_dir) == ("completion", "entropy", 0.5, "mine")

    def test_arms_need_no_recipe(self, elsewhere):
        _, args, _ = make_parser().parse_args_and_config(["--arm", "dr_grpo", "--output_dir", "x", "--bf16", "false"])
        assert (args.loss_type, args.output_dir) == ("dr_grpo", "x")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--arm", "gdop"], "there is no arm gdop: do you mean gdpo?"),
            (["--arm"], "--arm needs a name"),
            (["--arm", "rsft"], "the arm rsft has unknown argument reasoning_weight"),
        ],
    )
    def test_what_is_no_arm_of_the_program_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            make_parser().parse_args_and_config(["--config", "demo", *arguments])

    def test_a_misspelt_recipe_of_training_is_one_line(self, elsewhere):
        with pytest.raises(SystemExit, match=r"^rest_trl.train: error: .* mean demo\? rest-trl recipes lists them$"):
            train(["--config", "dem"])

    def test_the_launcher_takes_a_name(self, elsewhere):
        file, rest = split_accelerate_config(["--accelerate_config", "ddp", "--config", "demo"])
        assert (Path(file), rest) == (ROOT / "recipes" / "accelerate" / "ddp.yaml", ["--config", "demo"])
        with pytest.raises(FileNotFoundError, match=r"its names are ddp, fsdp2, zero3, zero3_offload"):
            split_accelerate_config(["--accelerate_config=dpd"])

    def test_a_study_takes_a_name(self, elsewhere):
        assert set(load_study(Path("studies"), name="demo").arms) == {"grpo", "rest", "region", "region_rest"}

    def test_the_doctor_takes_a_name(self, elsewhere, monkeypatch):
        monkeypatch.setattr("rest_trl.lab.doctor.probe.probe", lambda packages: {"gpus": [], "cuda": None})
        found = {finding.name: finding for finding in examine(Path("demo"))}
        assert found["Recipe"].status == "ok" and found["Recipe"].found.endswith("demo.yaml parses")
        (wrong,) = (finding for finding in examine(Path("demmo")) if finding.name == "Recipe")
        assert wrong.status == "problem" and "do you mean demo?" in wrong.found


class TestReadHead:
    @pytest.mark.parametrize("name", RECIPES)
    def test_every_recipe_says_its_machine_its_purpose_and_its_command(self, name):
        recipe = read_head(recipes_dir() / f"{name}.yaml", name)
        assert recipe.hardware == "CPU" or "GB" in recipe.hardware or "GPUs" in recipe.hardware
        assert recipe.purpose.endswith((".", ":")) and len(recipe.purpose) > 10
        assert recipe.commands[-1].endswith(f"--config {name}")
        assert not any(" recipes/" in command for command in recipe.commands)

    def test_a_study_has_the_machine_of_the_recipe_that_it_names(self, tmp_path):
        study = tmp_path / "own.yaml"
        study.write_text("recipe: qwen3_1.7b_qlora_24gb\narms: {a: {}}\nbaseline: a\noutput_dir: out\n")
        assert read_head(study, "own").hardware == "one card of 24 GB"

    def test_files_of_accelerate_are_named_where_they_are(self):
        command = read_head(recipes_dir() / "qwen3_8b.yaml", "qwen3_8b").commands[-1]
        file = command.split("--config_file ")[1].split()[0]
        assert Path(file) == recipes_dir() / "accelerate" / "fsdp2.yaml"


class TestCommand:
    def test_lists_all_recipes_with_machine_and_command(self, capsys, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["rest-trl", "recipes"])
        cli.main()
        lines = capsys.readouterr().out.splitlines()
        listed = [line.split("  ")[0] for line in lines if not line.startswith(" ")]
        arms, studies = ([f"{option} {name}" for name in read_table(table)] for table, option in TABLES.items())
        assert listed == [*RECIPES, *arms, *studies]
        assert any(line.startswith("--arm gdpo  GDPO (arXiv 2601.05242): each reward is normalised") for line in lines)
        place = lines.index(
            next(line for line in lines if line.startswith("qwen3_1.7b_qlora_24gb  one card of 24 GB  "))
        )
        assert lines[place + 1].endswith("-m rest_trl.train --config qwen3_1.7b_qlora_24gb")

    def test_prints_a_recipe(self, capsys):
        main(["demo"])
        assert capsys.readouterr().out == (ROOT / "recipes" / "demo.yaml").read_text()

    def test_an_unknown_name_is_one_line(self):
        with pytest.raises(SystemExit, match=r"^rest-trl recipes: error: there is no file demos, .* mean demo"):
            main(["demos"])


class TestFilters:
    def listed(self, capsys, *arguments):
        main(list(arguments))
        lines = capsys.readouterr().out.splitlines()
        return [line.split()[0] for line in lines if not line.startswith(" ")]

    def test_list_what_one_card_can_run(self, capsys):
        small, large = (self.listed(capsys, "--memory", gb) for gb in ("24", "80"))
        assert "qwen3_1.7b_lora_24gb" in small and "demo" in small and not any("80gb" in name for name in small)
        assert set(small) < set(large) and "qwen3_1.7b_lora_80gb" in large and "qwen3_8b" not in large

    def test_list_recipes_of_a_model(self, capsys):
        names = self.listed(capsys, "--model", "Llama", "--memory", "24")
        assert names == ["llama3.2_3b_lora_24gb"]
        assert "--arm" in self.listed(capsys) and "--arm" not in self.listed(capsys, "--model", "tiny")

    def test_say_that_there_is_none(self):
        with pytest.raises(SystemExit, match="none for this model and memory: rest-trl recipes lists all"):
            main(["--model", "gpt"])
