import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from rest_trl.lab.commands.study import make_parser
from rest_trl.lab.study.arms import Study, StudyFolder, load_study
from rest_trl.lab.study.worker import check_arms
from rest_trl.runs.listing import read_table
from rest_trl.runs.recipes import find_recipe, load_arm, read_recipe


ROOT = Path(__file__).parents[2]
RECIPE = {"learning_rate": 1e-4, "coefficients": "entropy", "use_cpu": True, "bf16": False}
STUDIES = list(read_table("studies"))


def write(directory, **changes):
    content = {
        "recipe": "recipe.yaml",
        "arms": {"grpo": {"coefficients": "uniform"}, "rest": None},
        "baseline": "grpo",
        "output_dir": "outputs/study",
        **changes,
    }
    (directory / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    path = directory / "study.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value != "absent"}))
    return path


class TestLoadStudy:
    def test_arms_are_the_recipe_with_overrides(self, tmp_path):
        study = load_study(write(tmp_path))
        assert study.arms == {
            "grpo": {**RECIPE, "coefficients": "uniform"},
            "rest": RECIPE,
        }
        assert (study.seeds, study.held_out, study.evaluations, study.workers) == ((0,), 512, 2, None)

    @pytest.mark.parametrize(
        ("given", "argument", "seeds"), [(3, None, (0, 1, 2)), ([5, 7], None, (5, 7)), (3, 5, (0, 1, 2, 3, 4))]
    )
    def test_seeds_are_a_number_or_a_list(self, tmp_path, given, argument, seeds):
        assert load_study(write(tmp_path, seeds=given), argument).seeds == seeds

    @pytest.mark.parametrize(("argument", "workers"), [(None, 3), (5, 5)])
    def test_workers_of_the_command_line_replace_those_of_the_file(self, tmp_path, argument, workers):
        assert load_study(write(tmp_path, workers=3), workers=argument).workers == workers

    def test_refuses_no_workers_on_the_command_line(self, tmp_path):
        with pytest.raises(ValueError, match="workers must be a positive whole number, got 0"):
            load_study(write(tmp_path, workers=3), workers=0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"armes": {}}, r"unknown key 'armes' \(do you mean arms\?\)"),
            ({"settings": 3}, "settings must be a mapping of arguments, not 3"),
            ({"settings": {"output_dir": "x"}}, "settings sets output_dir, which the study sets for each run"),
            ({"baseline": "absent"}, "no baseline"),
            ({"baseline": "nobody"}, "there is no arm 'nobody': choose one of grpo, rest"),
            ({"arms": {}}, "arms must map names"),
            ({"arms": {"../grpo": {}}}, "names a folder"),
            ({"arms": {"grpo": 3}}, "must be a mapping of arguments, not 3"),
            ({"arms": {"grpo": {"seed": 3}}}, "sets seed, which the study sets for each run"),
            ({"seeds": 0}, "give at least one"),
            ({"seeds": [1, 1]}, "each once"),
            ({"seeds": [-1]}, "none negative"),
            ({"seeds": 3.0}, r"study\.yaml: seeds must be their number or a list of them, got 3\.0"),
            ({"seeds": None}, "seeds must be their number or a list of them, got None"),
            ({"seeds": True}, "seeds must be their number or a list of them, got True"),
            ({"seeds": ["a", 1]}, "seeds must be whole numbers, got 'a'"),
            ({"seeds": [[1]]}, r"seeds must be whole numbers, got \[1\]"),
            ({"output_dir": None}, r"study\.yaml: output_dir must be a text, got None"),
            ({"recipe": None}, "recipe must be a text, got None"),
            ({"baseline": ["grpo"]}, r"baseline must be a text, got \['grpo'\]"),
            ({"workers": 0}, "workers must be a positive whole number, got 0"),
            ({"held_out": 0}, "held_out must be a positive whole number, got 0"),
            ({"held_out": None}, "held_out must be a positive whole number, got None"),
            ({"evaluations": 1.5}, "evaluations must be a positive whole number, got 1.5"),
        ],
    )
    def test_refuses_what_is_not_a_study(self, tmp_path, changes, message):
        with pytest.raises(ValueError, match=message):
            load_study(write(tmp_path, **changes))

    def test_settings_are_those_of_all_arms_unless_an_arm_has_its_own(self, tmp_path):
        given = {"learning_rate": 1e-3, "coefficients": "released"}
        study = load_study(write(tmp_path, settings={"arm": "rest", **given}))
        common = RECIPE | load_arm("rest") | given
        assert study.arms == {"grpo": common | {"coefficients": "uniform"}, "rest": common}

    def test_a_recipe_may_be_that_of_a_name(self, tmp_path):
        for name in ("demo", "recipes/demo.yaml"):
            study = load_study(write(tmp_path, recipe=name))
            assert study.arms["rest"] == read_recipe(find_recipe("demo"))
        (tmp_path / "demo").write_text(yaml.safe_dump(RECIPE))  # a file beside the study comes first
        assert load_study(write(tmp_path, recipe="demo")).arms["rest"] == RECIPE

    def test_a_missing_recipe_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"study\.yaml: recipe: .* elsewhere\.yaml, and no recipe of this"):
            load_study(write(tmp_path, recipe="elsewhere.yaml"))
        with pytest.raises(FileNotFoundError, match="do you mean demo"):
            load_study(write(tmp_path, recipe="demmo"))


class TestNamedArms:
    def test_arms_take_their_settings_from_the_table(self, tmp_path):
        study = load_study(write(tmp_path, arms={"grpo": {"arm": "gdpo", "reward_schedule": "horizon"}, "rest": {}}))
        assert study.arms["grpo"] == {**RECIPE, **load_arm("gdpo"), "reward_schedule": "horizon"}
        assert study.arms["rest"] == RECIPE  # a name alone does not

    def test_refuses_an_arm_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match="there is no arm gdop: do you mean gdpo"):
            load_study(write(tmp_path, arms={"grpo": {"arm": "gdop"}}))


class TestSeveralStudies:
    def test_one_is_chosen_by_its_name(self, tmp_path):
        path = write(tmp_path)
        content = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({"first": content, "second": {**content, "output_dir": "outputs/second"}}))
        assert load_study(path, name="second").output_dir == Path("outputs/second")
        with pytest.raises(
            ValueError, match=r"study.yaml holds several studies: choose one of first, second with --st"
        ):
            load_study(path)
        with pytest.raises(ValueError, match=r"study.yaml has no study 'third': choose one of first, second with"):
            load_study(path, name="third")

    def test_a_file_of_one_has_no_names(self, tmp_path):
        with pytest.raises(ValueError, match="has no study 'first'"):
            load_study(write(tmp_path), name="first")


class TestStudiesOfThePackage:
    @pytest.mark.parametrize("name", STUDIES)
    def test_arms_parse_and_their_rewards_resolve(self, name):
        check_arms(load_study(Path("studies"), name=name))

    def test_begin_with_their_command(self):
        first, *_ = (ROOT / "recipes/studies.yaml").read_text().splitlines()
        assert first == "# rest-trl study --config recipes/studies.yaml --study demo"
        arguments = make_parser().parse_args(first.split()[3:])
        assert load_study(ROOT / arguments.config, name=arguments.study).arms

    def test_have_their_purpose_above_them(self):
        for name, purpose in read_table("studies").items():
            assert len(purpose) > 20 and purpose.endswith("."), name

    def test_arms_of_one_name_in_one_folder_are_the_same(self):
        seen = {}
        for name in STUDIES:
            study = load_study(Path("studies"), name=name)
            for arm, settings in study.arms.items():
                assert seen.setdefault((study.output_dir, arm), settings) == settings, (name, arm)


def make_study(directory, **changes):
    study = Study({"base": {"learning_rate": 1e-4}, "other": {"learning_rate": 2e-4}}, "base", (0, 1), directory)
    return dataclasses.replace(study, **changes)


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study")


@pytest.fixture
def folder(study):
    folder = StudyFolder(study.output_dir)
    folder.register(study)
    return folder


class TestRegister:
    def test_takes_the_same_study_again(self, folder, study):
        before = folder.manifest()
        folder.register(study)
        assert folder.manifest() == before

    def test_adds_seeds_and_arms(self, folder, study):
        folder.register(dataclasses.replace(study, seeds=(0, 1, 2), arms={"base": study.arms["base"], "new": {}}))
        assert list(folder.manifest()["arms"]) == ["base", "other", "new"]

    @pytest.mark.parametrize("check", ["register", "check"])
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"arms": {"base": {"learning_rate": 3e-4}}}, "learning_rate of base was 0.0001, is 0.0003"),
            ({"arms": {"base": {"learning_rate": 1e-4, "beta": 0.1}}}, "beta of base was None, is 0.1"),
            ({"arms": {"base": {}}}, "learning_rate of base was 0.0001, is None"),
            ({"held_out": 64}, "held_out was 512, is 64"),
            ({"evaluations": 5}, "evaluations was 2, is 5"),
        ],
    )
    def test_refuses_changed_settings_by_name(self, folder, study, changes, message, check):
        before = folder.manifest()
        with pytest.raises(ValueError, match="holds another study") as error:
            getattr(folder, check)(dataclasses.replace(study, **changes))
        assert message in str(error.value)
        assert folder.manifest() == before

    def test_another_version_may_report_and_not_run(self, folder, study):
        manifest = folder.manifest()
        manifest["versions"]["trl"] = "0.0.1"
        (folder.directory / "study.json").write_text(json.dumps(manifest))
        folder.check(study)
        with pytest.raises(ValueError, match=r"versions was .*0\.0\.1"):
            folder.register(study)

    def test_another_baseline_is_the_same_study(self, folder, study):
        folder.register(dataclasses.replace(study, baseline="other"))

    def test_a_folder_without_a_study_says_so(self, tmp_path):
        with pytest.raises(ValueError, match=r"holds no study: there is no study\.json"):
            StudyFolder(tmp_path).manifest()


class TestResults:
    def test_are_in_the_order_of_arms_and_seeds(self, folder):
        for run in [("other", 10), ("base", 2), ("base", 10), ("other", 2)]:
            folder.save(run, pd.DataFrame({"arm": [run[0]], "seed": [run[1]], "step": [1]}))
        results = folder.results()
        assert list(zip(results["arm"], results["seed"], strict=True)) == [
            ("base", 2),
            ("base", 10),
            ("other", 2),
            ("other", 10),
        ]

    def test_of_no_run_are_empty(self, folder):
        assert folder.results().empty and "arm" in folder.results()


class TestLock:
    def test_keeps_a_second_study_out(self, folder):
        with folder.lock(), pytest.raises(ValueError, match="another study is at work"):
            StudyFolder(folder.directory).lock()
        with folder.lock():
            pass

    def test_is_free_after_the_context_while_the_object_is_still_there(self, folder):
        lock = folder.lock()
        with lock:
            pass
        with StudyFolder(folder.directory).lock():
            pass


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"coeficients": "entropy"}, r"arm rest: .*coeficients"),
        ({"reward_funcs": ["nobodys_reward"]}, r"arm rest: .*nobodys_reward"),
        ({"reward_funcs": ["rest_trl.lab.study.falsifiers.NobodysReward"]}, r"arm rest: .*NobodysReward"),
    ],
)
def test_what_cannot_be_resolved_names_its_arm(tmp_path, overrides, message):
    study = load_study(write(tmp_path, arms={"grpo": {}, "rest": overrides}))
    with pytest.raises(ValueError, match=message):
        check_arms(study)
