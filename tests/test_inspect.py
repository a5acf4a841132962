import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pandas
import pytest

from rest_trl import cli, inspect
from rest_trl.display.page import STYLES, html_page
from rest_trl.tiny import TINY_MODEL_DIR
from rest_trl.tool_calls import Region


COMPLETION = (
    '<think>\nfünf < 6 & "7"\n</think>\n<tool_call>\n'
    '{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
)


class Tokens(HTMLParser):
    """Text, class and tip of every token of a page."""

    def __init__(self):
        super().__init__()
        self.tokens, self.external, self._open = [], [], False

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self._open = "data-tip" in attributes
        if self._open:
            self.tokens.append([attributes["class"], attributes["data-tip"], ""])
        self.external += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        if self._open:
            self.tokens[-1][2] += data

    def handle_endtag(self, tag):
        self._open = False


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["rest-trl", "inspect", *map(str, arguments)])
    cli.main()


@pytest.fixture
def page(tmp_path, monkeypatch):
    (tmp_path / "completion.txt").write_text(COMPLETION)
    run(monkeypatch, tmp_path / "completion.txt", "--model", TINY_MODEL_DIR, "--html", tmp_path / "page.html")
    return tmp_path / "page.html"


class TestTerminal:
    def test_shows_the_completion_and_the_legend(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "completion.txt").write_text(COMPLETION)
        run(monkeypatch, tmp_path / "completion.txt", "--model", TINY_MODEL_DIR)
        out = capsys.readouterr().out
        assert "get_weather" in out and "reasoning" in out
        assert STYLES.keys() == set(Region)

    def test_reads_ids_texts_and_completions_parquets(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "ids.jsonl").write_text(json.dumps({"completion_ids": [5, 6, 7]}) + "\n")
        pandas.DataFrame({"step": [3], "completion": [COMPLETION]}).to_parquet(tmp_path / "completions.parquet")
        messages = pandas.DataFrame({"completion": [[{"role": "assistant", "content": COMPLETION}]]})
        messages.to_parquet(tmp_path / "messages.parquet")
        for name in ("ids.jsonl", "completions.parquet", "messages.parquet"):
            run(monkeypatch, tmp_path / name, "--model", TINY_MODEL_DIR)
        out = capsys.readouterr().out
        assert "Completion 0, step 3" in out
        assert out.count("get_weather") == 2

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [("missing.txt", None, "No such file"), ("rows.jsonl", '{"text": "x"}\n', "needs a column completion")],
    )
    def test_bad_files_give_one_line(self, name, content, message, tmp_path, monkeypatch):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(SystemExit, match=message) as error:
            run(monkeypatch, tmp_path / name, "--model", TINY_MODEL_DIR)
        assert "\n" not in str(error.value)


class TestPage:
    def test_shows_every_token_with_its_region_and_coefficient(self, page):
        parser = Tokens()
        parser.feed(page.read_text())
        assert "".join(text for _, _, text in parser.tokens) == COMPLETION
        names = [tip for css, tip, _ in parser.tokens if css == f"t r{Region.TOOL_NAME.value}"]
        assert names and all("region: tool_name" in tip and "coefficient: 1." in tip for tip in names)

    def test_needs_nothing_else(self, page):
        parser = Tokens()
        parser.feed(page.read_text())
        assert parser.external == []
        assert not re.search(r"https?:|@import|url\(", page.read_text())

    def test_shows_entropies_that_are_known(self, tokenizer):
        item = inspect.Inspected("one", [5, 6], [1, 4], [1.0, 2.0], [0.25, 1.5])
        assert "entropy: 1.5000 nats" in html_page("title", [item], tokenizer)

    def test_weights_take_the_place_of_a_preset(self, tmp_path, monkeypatch):
        (tmp_path / "completion.txt").write_text(COMPLETION)
        page = tmp_path / "page.html"
        weights = ["--weights", "0", "1", "0", "0", "0"]
        run(monkeypatch, tmp_path / "completion.txt", "--model", TINY_MODEL_DIR, "--html", page, *weights)
        parser = Tokens()
        parser.feed(page.read_text())
        weighed = {css for css, tip, _ in parser.tokens if "coefficient: 0.0000" not in tip}
        assert weighed == {f"t r{Region.TOOL_NAME.value}"}

    def test_renders_in_a_browser(self, page, tmp_path):
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is None:
            pytest.skip("no Chromium on this machine: the page is not rendered")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        picture = tmp_path / "page.png"
        common = [chromium, *flags, "--no-first-run", profile]
        subprocess.run(
            [*common, f"--screenshot={picture}", "--window-size=900,600", page.as_uri()],
            check=True,
            capture_output=True,
            timeout=120,
        )
        assert picture.read_bytes().startswith(b"\x89PNG")
        dom = subprocess.run([*common, "--dump-dom", page.as_uri()], check=True, capture_output=True, timeout=120)
        parser = Tokens()
        parser.feed(dom.stdout.decode())
        assert "".join(text for _, _, text in parser.tokens) == COMPLETION
