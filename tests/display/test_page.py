import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from transformers import AutoTokenizer

from rest_trl.lab.display.completions import Completion, Inspected
from rest_trl.lab.display.page import html_page
from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.regions import Region, partition


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

    def test_needs_nothing_else(self, page):
        assert Tokens(page).external == []
        assert not re.search(r"https?:|@import|url\(", page)

    def test_follows_the_dark_mode(self, page):
        assert "@media (prefers-color-scheme: dark)" in page

    @pytest.mark.parametrize("width", [420, 1000])
    def test_fits_the_width_of_a_browser(self, width, page, tmp_path):
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is None:
            pytest.skip("no Chromium on this machine: the page is not rendered")
        # The page lies in a frame of the width, and says by how much its content is wider.
        (tmp_path / "page.html").write_text(page, encoding="utf-8")
        (tmp_path / "frame.html").write_text(
            "<script>function measure(frame) { const root = frame.contentDocument.documentElement;"
            "document.body.dataset.overflow = root.scrollWidth - root.clientWidth; }</script>"
            f'<iframe src="page.html" style="width: {width}px; height: 500px" onload="measure(this)"></iframe>'
        )
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
        dom = subprocess.run(
            [chromium, *flags, "--dump-dom", (tmp_path / "frame.html").as_uri()],
            check=True,
            capture_output=True,
            timeout=120,
        )
        assert 'data-overflow="0"' in dom.stdout.decode()
