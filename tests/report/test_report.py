"""report.html as a file: complete, self-contained, small, and with everything from the data as text."""

import base64
import hashlib
import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from eigen_lightning.report import write_report
from eigen_lightning.report.ordering import clustered
from eigen_lightning.report.text import as_text, level, number
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from tests.report.folders import HOSTILE, make_run


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would take them apart."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.feed(source)
        self.text = "".join(self.texts)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if dict(attributes).get("id"):
            self.ids.append(dict(attributes)["id"])

    def handle_data(self, data):
        self.texts.append(data)


def page_of(run: RunFolder) -> tuple[str, Page]:
    source = write_report(run).read_text(encoding="utf-8")
    return source, Page(source)


@pytest.mark.parametrize("kind", ["text", "tms", "xor"])
def test_a_report_holds_what_the_run_found(tmp_path, kind):
    run = make_run(tmp_path / "run", kind, directions=5)
    source, page = page_of(run)
    cards = [attributes for tag, attributes in page.tags if tag == "article"]
    assert [card["id"] for card in cards] == [f"direction-{k}" for k in range(5)]
    assert [float(card["data-steepness"]) for card in cards] == pytest.approx([10 + k for k in range(5)], rel=0.05)
    assert float(cards[0]["data-selectivity"]) > 1e9
    assert float(cards[3]["data-selectivity"]) == 33
    assert "34 times as much as equally sensitive random ones" in page.text
    assert "Normalized steepness on held-out samples is 83% of that on training samples" in page.text
    assert "ab" * 32 in page.text
    assert "seed_everything: 0" in page.text
    assert source.count('class="matrix"') == 1
    assert source.count('<rect class="diagonal"') == 5
    assert source.count('class="geometry"') == (5 if kind == "tms" else 0)
    if kind == "text":
        assert page.text.count("What a step does to the next token") == 5
        shaded = [attributes for tag, attributes in page.tags if tag == "mark"]
        assert len(shaded) == 5 * 20
        assert all(attributes["title"].startswith("d2D") for attributes in shaded)
    else:
        assert "5 of 5 features recovered (PCA 1, random directions 0)." in page.text


def test_ids_are_unique_and_links_lead_somewhere(tmp_path):
    _, page = page_of(make_run(tmp_path, directions=6))
    assert len(page.ids) == len(set(page.ids))
    links = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    assert links <= set(page.ids)


def test_nothing_is_loaded_and_only_our_own_script_and_style_may_run(tmp_path):
    source, page = page_of(make_run(tmp_path))
    fetching = ("src", "srcset", "data", "action", "poster", "background")
    assert not [attributes for _, attributes in page.tags if any(name in attributes for name in fetching)]
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "base", "img")]
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in page.tags)
    assert not [
        1 for _, attributes in page.tags if "style" in attributes or any(key.startswith("on") for key in attributes)
    ]
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", source, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_hostile_stories_are_text(tmp_path):
    words = [*HOSTILE, " fine"]
    plain = page_of(make_run(tmp_path / "plain"))[1]
    source, page = page_of(make_run(tmp_path / "hostile", examples=5, words=words))
    kinds = {tag for tag, _ in page.tags}
    assert kinds <= {tag for tag, _ in plain.tags} | {"i", "span"}
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [1 for _, attributes in page.tags if any(key.startswith("on") for key in attributes)]
    for word in HOSTILE[:5] + HOSTILE[9:13]:
        assert word in page.text
    assert "{{ 7*7 }}" in page.text
    assert "49" not in html.unescape(source.split("{{ 7*7 }}")[0][-40:])
    for hidden in ("\u202e", "\u202c", "\u2066", "\u200f", "\u2028", "\x85", "\x00", "\x1b", "\ufeff", "\u200b"):
        assert hidden not in source
        assert f"U+{ord(hidden):04X}" in page.text


def test_hidden_characters_show_their_code_points():
    assert as_text("a\u202eb") == 'a<span class="mark">U+202E</span>b'
    assert as_text("<\ud800>") == '&lt;<span class="mark">U+D800</span>&gt;'
    assert as_text("👩\u200d👧 é") == "👩\u200d👧 é"


def test_lines_with_unicode_line_ends_stay_whole(tmp_path):
    run = RunFolder(tmp_path)
    lines = [{"direction": 0, "text": "a\u2028b\x85c"}, {"direction": 1, "text": ""}]
    run.write_lines(run.cards, lines)
    assert run.read_lines(run.cards) == lines


def test_a_large_report_stays_small(tmp_path):
    run = make_run(tmp_path, directions=64, examples=20)
    assert write_report(run).stat().st_size < 5e6


def test_a_run_with_the_bare_minimum_has_a_report(tmp_path):
    run = make_run(tmp_path)
    for path in (run.cards, run.interventions, run.scorecard, run.interference, run.coactivity, run.config):
        path.unlink()
    _, page = page_of(run)
    assert len([1 for tag, _ in page.tags if tag == "article"]) == 8


def test_health_is_drawn_from_numbers(tmp_path):
    run = make_run(tmp_path, directions=4)
    U, space = run.read_directions()
    U[2] = -U[1]
    run.write_directions(U, space)
    lines = run.read_top_examples()
    for example in lines[3]["examples"]:
        example["value"] = 0.0
    run.write_top_examples(lines)
    card = run.read_json(run.scorecard)
    run.write_json(run.scorecard, {**card, "health": {"dead": [3], "duplicates": [[1, 2]]}})
    found = run.read_json(run.interventions)
    found["directions"][0] |= {"selectivity": 1.2}
    run.write_json(run.interventions, found)
    source, page = page_of(run)
    badges = re.findall(r'id="direction-(\d)".*?</header>', source, re.S)
    assert badges == ["0", "1", "2", "3"]
    by_card = [re.findall(r'class="badge b-([a-z-]+)"', part) for part in source.split("<article")[1:]]
    assert "unselective" in by_card[0]
    assert "duplicate" not in by_card[1]
    assert "duplicate" in by_card[2]
    assert "dead" in by_card[3]
    assert "1 dead direction." in page.text
    assert "1 duplicate." in page.text


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json"):
        write_report(RunFolder(tmp_path))


def test_clustering_puts_blocks_together():
    block = np.arange(12) % 3
    similarity = (block[:, None] == block).astype(float) * 0.9 + np.eye(12) * 0.1
    order = clustered(similarity)
    assert (np.diff(block[order]) != 0).sum() == 2


def test_numbers_and_shades():
    assert [number(v) for v in (None, 0.0, 3, 1234, 0.12345, 1.5e-7)] == ["–", "0", "3", "1,234", "0.123", "1.5×10⁻⁷"]
    assert [level(v, 1.0) for v in (0.0, 0.05, 0.07, 0.5, 1.0, 2.0)] == [0, 0, 1, 4, 8, 8]
