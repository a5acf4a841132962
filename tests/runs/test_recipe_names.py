import os
import sys
from pathlib import Path

import pytest

from rest_trl import cli
from rest_trl.lab.doctor import examine
from rest_trl.lab.study.config import load_study
from rest_trl.runs import recipes
from rest_trl.runs.launching import split_accelerate_config
from rest_trl.runs.recipes import find_recipe, main, read_head, recipe_names, recipes_dir
from rest_trl.train import main as train
from rest_trl.train import make_parser


ROOT = Path(__file__).resolve().parents[2]
NAMES = recipe_names()


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
        assert find_recipe("tiny/grpo") == ROOT / "recipes" / "tiny" / "grpo.yaml"
        with pytest.raises(FileNotFoundError, match=r"there is no file grpo, .*rest-trl recipes lists them"):
            find_recipe("grpo")

    def test_a_misspelt_name_is_named_with_the_nearest(self, elsewhere):
        with pytest.raises(FileNotFoundError, match=r"no recipe of this name: do you mean qwen3_8b_lora\?"):
            find_recipe("qwen3_8b_lorra")

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

    def test_a_misspelt_recipe_of_training_is_one_line(self, elsewhere):
        with pytest.raises(SystemExit, match=r"^rest_trl.train: error: .* mean demo\? rest-trl recipes lists them$"):
            train(["--config", "dem"])

    def test_the_launcher_takes_a_name(self, elsewhere):
        file, rest = split_accelerate_config(["--accelerate_config", "ddp", "--config", "demo"])
        assert (Path(file), rest) == (ROOT / "recipes" / "accelerate" / "ddp.yaml", ["--config", "demo"])
        with pytest.raises(FileNotFoundError, match=r"its names are ddp, fsdp2, zero3, zero3_offload"):
            split_accelerate_config(["--accelerate_config=dpd"])

    def test_a_study_takes_a_name(self, elsewhere):
        assert set(load_study(Path("tiny/study")).arms) == {"grpo", "rest", "region", "region_rest"}

    def test_the_doctor_takes_a_name(self, elsewhere, monkeypatch):
        monkeypatch.setattr("rest_trl.lab.doctor.probe.probe", lambda packages: {"gpus": [], "cuda": None})
        found = {finding.name: finding for finding in examine(Path("demo"))}
        assert found["Recipe"].status == "ok" and found["Recipe"].found.endswith("demo.yaml parses")
        (wrong,) = (finding for finding in examine(Path("demmo")) if finding.name == "Recipe")
        assert wrong.status == "problem" and "do you mean demo?" in wrong.found


class TestReadHead:
    @pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("accelerate/")])
    def test_every_recipe_says_its_machine_its_purpose_and_its_command(self, name):
        recipe = read_head(recipes_dir() / f"{name}.yaml", name)
        assert recipe.hardware == "CPU" or "GB" in recipe.hardware or "GPUs" in recipe.hardware
        assert recipe.purpose.endswith((".", ":")) and len(recipe.purpose) > 10
        assert recipe.commands[-1].endswith(f"--config {name}")
        assert not any(" recipes/" in command for command in recipe.commands)

    def test_files_of_accelerate_are_named_where_they_are(self):
        command = read_head(recipes_dir() / "qwen3_8b_lora.yaml", "qwen3_8b_lora").commands[-1]
        file = command.split("--config_file ")[1].split()[0]
        assert Path(file) == recipes_dir() / "accelerate" / "ddp.yaml"


class TestCommand:
    def test_lists_all_recipes_with_machine_and_command(self, capsys, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["rest-trl", "recipes"])
        cli.main()
        lines = capsys.readouterr().out.splitlines()
        listed = [line.split()[0] for line in lines if not line.startswith(" ")]
        assert listed == [name for name in NAMES if not name.startswith("accelerate/")]
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
