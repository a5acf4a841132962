import dataclasses
import json

import pandas as pd
import pytest

from rest_trl.lab.study.config import Study
from rest_trl.lab.study.store import StudyStore


def make_study(directory, **changes):
    study = Study({"base": {"learning_rate": 1e-4}, "other": {"learning_rate": 2e-4}}, "base", (0, 1), directory)
    return dataclasses.replace(study, **changes)


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study")


@pytest.fixture
def store(study):
    store = StudyStore(study.output_dir)
    store.register(study)
    return store


class TestRegister:
    def test_takes_the_same_study_again(self, store, study):
        before = store.manifest()
        store.register(study)
        assert store.manifest() == before

    def test_adds_seeds_and_arms(self, store, study):
        store.register(dataclasses.replace(study, seeds=(0, 1, 2), arms={"base": study.arms["base"], "new": {}}))
        assert list(store.manifest()["arms"]) == ["base", "other", "new"]

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
    def test_refuses_changed_settings_by_name(self, store, study, changes, message, check):
        before = store.manifest()
        with pytest.raises(ValueError, match="holds another study") as error:
            getattr(store, check)(dataclasses.replace(study, **changes))
        assert message in str(error.value)
        assert store.manifest() == before

    def test_another_version_may_report_and_not_run(self, store, study):
        manifest = store.manifest()
        manifest["versions"]["trl"] = "0.0.1"
        (store.directory / "study.json").write_text(json.dumps(manifest))
        store.check(study)
        with pytest.raises(ValueError, match=r"versions was .*0\.0\.1"):
            store.register(study)

    def test_another_baseline_is_the_same_study(self, store, study):
        store.register(dataclasses.replace(study, baseline="other"))

    def test_a_folder_without_a_study_says_so(self, tmp_path):
        with pytest.raises(ValueError, match=r"holds no study: there is no study\.json"):
            StudyStore(tmp_path).manifest()


class TestResults:
    def test_are_in_the_order_of_arms_and_seeds(self, store):
        for run in [("other", 10), ("base", 2), ("base", 10), ("other", 2)]:
            store.save(run, pd.DataFrame({"arm": [run[0]], "seed": [run[1]], "step": [1]}))
        results = store.results()
        assert list(zip(results["arm"], results["seed"], strict=True)) == [
            ("base", 2),
            ("base", 10),
            ("other", 2),
            ("other", 10),
        ]

    def test_of_no_run_are_empty(self, store):
        assert store.results().empty and "arm" in store.results()


class TestLock:
    def test_keeps_a_second_study_out(self, store):
        with store.lock(), pytest.raises(ValueError, match="another study is at work"):
            StudyStore(store.directory).lock()
        with store.lock():
            pass

    def test_is_free_behind_the_context_while_the_object_is_still_there(self, store):
        lock = store.lock()
        with lock:
            pass
        with StudyStore(store.directory).lock():
            pass
