import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from transformers import AutoTokenizer

from rest_trl.lab.display.completion_files import Completion
from rest_trl.lab.display.described import Inspected
from rest_trl.lab.display.page import html_page
from rest_trl.lab.inspect import inspect
from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.regions import Region, partition
from rest_trl.tool_calls import get_syntax


TEXT = (
    '<think>\nfünf < 6 & "7"\n</think>\n<tool_call>\n'
    '{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
)


class Tokens(HTMLParser):
    """Text, class and tip of every token of a page."""

    def __init__(self, page):
        super().__init__()
        self.tokens, self.external, self._open = [], [], False
        self.feed(page)

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


@pytest.fixture(scope="module")
def page():
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    regions = partition(ids, tokenizer, "hermes")[0].tolist()
    scores = {"my_<reward>": 1.5, "advantage": -0.25}
    completion = Completion(
        "One < two", "a & b " * 99, scores, ids[0].tolist(), [True] * len(regions), None, None, True
    )
    item = Inspected(completion, regions, [1.25] * len(regions))
    return html_page("Page <1>", [item, item._replace(coefficients=None)], tokenizer, ["A note & more."])


@pytest.fixture(scope="module")
def filtered():
    """A page of two completions with golds, the right calls and the wrong ones, of two steps."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    completions = []
    for step, text, advantage in ((1, TEXT, 1.0), (2, TEXT.replace("Oslo", "Rome"), -0.5)):
        ids = tokenizer(text)["input_ids"]
        completion = Completion("C", "p", {"advantage": advantage}, ids, [True] * len(ids), None, None, True)
        completions.append(completion._replace(solution=TEXT, step=step))
    return html_page("Page", inspect(completions, tokenizer, get_syntax("hermes"), None), tokenizer)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Renders a page in a browser and returns its elements."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: the page is not rendered")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--no-first-run"]
    flags += [
        "--disable-background-networking",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ]

    def dump(path):
        command = [chromium, *flags, "--dump-dom", path.as_uri()]
        return subprocess.run(command, check=True, capture_output=True, timeout=120).stdout.decode()

    return dump


@pytest.fixture(scope="module")
def overflows(page, filtered, browser, tmp_path_factory):
    """By how much both pages are wider than frames of two widths that they lie in, as a browser finds."""
    directory = tmp_path_factory.mktemp("frames")
    frames = []
    for kind, text in (("page", page), ("filtered", filtered)):
        (directory / f"{kind}.html").write_text(text, encoding="utf-8")
        for width in (420, 1000):
            measured = f"onload=\"measure(this, '{kind}-{width}')\""
            frames.append(f'<iframe src="{kind}.html" style="width: {width}px; height: 500px" {measured}></iframe>')
    (directory / "frames.html").write_text(
        "<script>function measure(frame, name) { const root = frame.contentDocument.documentElement;"
        "document.body.setAttribute('data-' + name, root.scrollWidth - root.clientWidth); }</script>" + "".join(frames)
    )
    return browser(directory / "frames.html")


class TestHtmlPage:
    def test_shows_every_token_with_its_region_and_coefficient(self, page):
        tokens = Tokens(page).tokens
        half = len(tokens) // 2
        assert "".join(text for _, _, text in tokens[:half]) == TEXT
        names = [tip for css, tip, _ in tokens[:half] if css == f"t r{Region.TOOL_NAME.value}"]
        assert names and all("tool_name, coefficient: 1.2500" in tip for tip in names)
        assert not any("coefficient" in tip for _, tip, _ in tokens[half:])

    def test_shows_that_a_completion_was_cut_off_inside_a_character(self):
        tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
        ids = tokenizer("a🌍")["input_ids"][:-1]
        completion = Completion("One", None, {}, ids, [True] * len(ids), None, None, True)
        page = html_page("Page", [Inspected(completion, [Region.RESPONSE] * len(ids), None)], tokenizer)
        assert "".join(text for *_, text in Tokens(page).tokens) == "a\N{REPLACEMENT CHARACTER}"

    def test_shows_prompt_rewards_and_notes(self, page):
        for text in ("Page &lt;1&gt;", "One &lt; two", "a &amp; b", "my_&lt;reward&gt; 1.500", "advantage -0.250"):
            assert text in page
        assert "<p>A note &amp; more.</p>" in page
        assert re.search(r"tool_name: \d+ tokens, coefficient 1.250</li>", page)

    def test_shows_the_gold_beside_and_whether_the_calls_are_its(self, filtered):
        assert filtered.count('<div class="beside">') == 2 and filtered.count("<h3>Gold</h3>") == 2
        gold = filtered.split("<h3>Gold</h3>")[1].split("</pre>")[0]
        assert f'<span class="r{Region.TOOL_NAME.value}">' in gold
        assert [verdict in filtered for verdict in ("exact calls</b>", "wrong calls</b>")] == [True, True]

    def test_shades_every_token_by_its_advantage(self, filtered):
        first, second = re.findall(r"<section.*?</section>", filtered, re.DOTALL)
        assert set(re.findall(r"--depth: (\d+)%; --sign: var\(--(more|less)\)", first)) == {("70", "more")}
        assert set(re.findall(r"--depth: (\d+)%; --sign: var\(--(more|less)\)", second)) == {("35", "less")}
        assert "advantage: 1.0000" in first and "advantage: -0.5000" in second

    def test_offers_the_filters_that_tell_completions_apart(self, page, filtered):
        names = ["color", "exact", "step", "region"]
        assert [f'<select id="{name}"' in filtered for name in names] == [True] * 4
        assert [f'<select id="{name}"' in page for name in names] == [True, False, False, True]
        for exact, step in (("yes", 1), ("no", 2)):
            assert f'data-exact="{exact}" data-gold="calls" data-step="{step}"' in filtered

    @pytest.mark.parametrize(
        ("choice", "value", "shown"),
        [("exact", "no", [False, True]), ("step", "1", [True, False]), ("region", "4", [True, True])],
    )
    def test_hides_what_is_filtered_out(self, choice, value, shown, filtered, browser, tmp_path):
        script = f"<script>document.getElementById('{choice}').value = '{value}'; show();</script></body>"
        (tmp_path / "page.html").write_text(filtered.replace("</body>", script), encoding="utf-8")
        dom = browser(tmp_path / "page.html")
        sections = re.findall(r"<section [^>]*>", dom)
        assert ["hidden" not in section for section in sections] == shown
        assert f'<span id="count">{sum(shown)} of 2</span>' in dom
        assert ("faded" in dom.split("<section", 1)[1].split("<script>")[0]) == (choice == "region")

    def test_needs_nothing_else(self, page):
        assert Tokens(page).external == []
        assert not re.search(r"https?:|@import|url\(", page)

    def test_follows_the_dark_mode(self, page):
        assert "@media (prefers-color-scheme: dark)" in page

    @pytest.mark.parametrize("width", [420, 1000])
    @pytest.mark.parametrize("kind", ["page", "filtered"])
    def test_fits_the_width_of_a_browser(self, kind, width, overflows):
        assert f'data-{kind}-{width}="0"' in overflows
