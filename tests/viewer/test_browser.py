"""The page in a real browser, against a live node on the demo clip."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest

from tests.viewer.conftest import ended
from ureca.node.captioning.engine_loader import SHIPPED_BUNDLE

pytest.importorskip(
    "websockets", reason="no websockets here: that the page is served was not proven"
)

from tests.viewer.chromium import chromium, executable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        executable() is None,
        reason="no Chromium here: that the page works in a browser was not proven",
    ),
]
LIVE_CARDS = "document.querySelectorAll('.card:not(.gone)').length"
SHOWN = f"{LIVE_CARDS} > 3 && document.querySelector('.stage.has-picture:not(.stale)') !== null"
STATE = "document.getElementById('state').dataset.state"
CHOSEN = "document.querySelector('.card.chosen .text')?.textContent ?? ''"
FACTS = "document.getElementById('picture-facts').textContent"
PLACE = (
    "(() => { const r = document.getElementById('stage').getBoundingClientRect();"
    " return [r.left, r.top, r.width, r.height]; })()"
)


@pytest.fixture(scope="module")
def browser():
    with chromium() as new_tab:
        yield new_tab


@pytest.fixture
def node(live, demo):
    clip, prompts = demo
    return live("--source", clip, "--prompts", prompts, "--loop")


@pytest.fixture
def page(browser, node):
    """A tab that shows the node, and complained of nothing until the end."""
    with shown(browser, node) as tab:
        yield tab


@pytest.fixture
def still_page(browser, live, demo, tmp_path):
    """The same over one picture for minutes: a clip that begins again ends all regions, so a slow
    machine could not count them.
    """
    clip, prompts = demo
    folder = tmp_path / "still"
    folder.mkdir()
    cv2.imwrite(str(folder / "0000.jpg"), cv2.VideoCapture(str(clip)).read()[1])
    for number in range(1, 1500):
        (folder / f"{number:04}.jpg").hardlink_to(folder / "0000.jpg")
    rate = ("--set", "source.fps=6", "--set", "source.frozen_s=0")
    with shown(browser, live("--source", folder, "--prompts", prompts, *rate)) as tab:
        yield tab


@contextmanager
def shown(browser, node):
    with ended(node.viewer()) as viewer:
        tab = browser()
        tab.size(1280, 800)
        tab.open(viewer.line("ureca view: "))
        tab.until(SHOWN)
        tab.viewer = viewer
        yield tab
        assert tab.console == []
        tab.close()


def at(tab, x: float, y: float) -> tuple[float, float]:
    left, top, width, height = tab.js(PLACE)
    return left + x * width, top + y * height


def test_a_click_starts_a_region_and_its_caption_appears(still_page):
    page = still_page
    before = page.js(LIVE_CARDS)
    page.click(*at(page, 0.12, 0.12))
    page.until(f"{LIVE_CARDS} > {before}")
    page.until(f"({CHOSEN}).startsWith('a ')")


def test_a_drag_starts_a_region_and_so_do_keys(still_page):
    page = still_page
    before = page.js(LIVE_CARDS)
    page.drag(*at(page, 0.05, 0.05), *at(page, 0.25, 0.3))
    page.until(f"{LIVE_CARDS} > {before}")
    page.until(f"({CHOSEN}).startsWith('a ')")
    page.js("document.getElementById('stage').focus()")
    page.key("ArrowRight")
    page.key("ArrowDown", shift=True)
    page.key("ArrowRight", shift=True)
    page.until("!document.getElementById('rubber').hidden")
    page.key("Enter")
    page.until(f"{LIVE_CARDS} > {before + 1}")


def test_masks_are_filled_outlined_or_off_and_the_mouse_lights_a_region(still_page):
    page = still_page
    tinted = (
        "(() => { const c = document.getElementById('masks');"
        " const own = new OffscreenCanvas(c.width, c.height);"
        " const to = own.getContext('2d', { willReadFrequently: true }); to.drawImage(c, 0, 0);"
        " const d = to.getImageData(0, 0, c.width, c.height).data;"
        " let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; })()"
    )
    filled = page.js(tinted)
    page.key("m")
    page.until("document.getElementById('mask-mode').textContent === 'Masks: outline'")
    assert 0 < page.js(tinted) < filled
    page.key("m")
    page.until("document.getElementById('mask-mode').textContent === 'Masks: off'")
    page.until(f"{tinted} === 0")
    left, top = page.js(
        "(() => { const r = document.querySelector('.tag').getBoundingClientRect();"
        " return [r.left + 5, r.top + 5]; })()"
    )
    page.mouse("mouseMoved", left, top)
    page.until("document.querySelectorAll('.tag.lit').length === 1")
    page.until(f"{tinted} > 0")


def test_a_killed_node_is_shown_and_the_page_heals(page, node):
    node.process.kill()
    page.until(f"{STATE} === 'lost'")
    page.until("!document.getElementById('banner').hidden")
    assert page.js("document.getElementById('pause').disabled")
    node.process.child.stdout.close()
    node.start()
    page.until(f"{STATE} === 'running' && {SHOWN}")
    seen = page.js(FACTS)
    page.until(f"{FACTS} !== {seen!r}")
    assert page.js("document.getElementById('banner').hidden")


def test_a_killed_viewer_is_shown(page):
    page.viewer.kill()
    page.until("document.getElementById('state-text').textContent === 'viewer lost'")
    page.console.clear()  # that it cannot connect is what is tested


def test_a_page_that_takes_its_time_is_sent_few_pictures(page):
    """The next picture is sent when the last one was drawn: a slow page queues nothing."""
    count = """(async (seconds) => {
        const seen = new Set(), end = performance.now() + seconds * 1000;
        while (performance.now() < end) {
            seen.add(document.getElementById('picture-facts').textContent.match(/frame (\\d+)/)[1]);
            await new Promise((done) => setTimeout(done, 10));
        }
        return seen.size; })"""
    fast = page.js(f"{count}(4)")
    page.js(
        "(() => { const plain = window.createImageBitmap; window.createImageBitmap = async (blob)"
        " => { await new Promise((done) => setTimeout(done, 1000)); return plain(blob); }; })()"
    )
    slow = page.js(f"{count}(4)")
    assert 1 <= slow <= 6
    assert fast > slow
    latest = page.js(f"Number({FACTS}.match(/frame (\\d+)/)[1])")
    assert latest >= 0


def test_captions_are_text_never_markup(page):
    """A caption is put into the page as text, whatever it says."""
    page.js(
        "import('./regions.js').then(async ({ Regions }) => {"
        " const { Cards } = await import('./cards.js');"
        " const regions = new Regions(), list = document.createElement('ul'); list.id = 'evil';"
        " document.body.append(list);"
        " const cards = new Cards(list, regions, { thumbnail() {} }, {});"
        " const words = '<img src=x onerror=window.owned=1><script>window.owned=1</script>';"
        " const common = { stream: 's', rid: 'r', clk: 'mono', captured_ns: 1, ttl_ms: 9 };"
        " regions.apply({ ...common, ev: 'caption.final', rev: 1, text: words, score: 1 });"
        " regions.all.get('s/r').number = '1'; cards.chosen = 's/r'; cards.query = 'img';"
        " cards.draw('s', false); })"
    )
    assert page.js("document.querySelector('#evil img, #evil script')") is None
    assert "<img src=x" in page.js("document.querySelector('#evil .text').textContent")
    assert page.js("window.owned") is None


@pytest.mark.parametrize("width", [390, 768, 1920])
def test_nothing_sticks_out_of_the_window(page, width):
    page.size(width, 844, phone=width < 500)
    page.until(f"innerWidth === {width}")
    assert page.js("document.documentElement.scrollWidth") <= width


def test_a_finger_points_boxes_and_scrolls(still_page):
    page = still_page
    page.size(390, 844, phone=True)
    page.until("innerWidth === 390")
    before = page.js(LIVE_CARDS)
    page.touch(at(page, 0.12, 0.12))
    page.until(f"{LIVE_CARDS} === {before + 1}")
    page.until(f"({CHOSEN}).startsWith('a ')")
    assert page.js("scrollY") == 0  # the picture stays in view
    page.js("document.querySelector('#labels').hidden = true")  # they can be touched, too
    page.touch(*(at(page, 0.05 + 0.02 * k, 0.5 + 0.02 * k) for k in range(14)))
    page.until(f"{LIVE_CARDS} === {before + 2}")
    page.touch(*(at(page, 0.5, 0.9 - 0.1 * k) for k in range(8)))
    page.until("scrollY > 20")
    assert page.js(LIVE_CARDS) == before + 2


def test_the_chosen_card_is_scrolled_into_its_list(page):
    page.size(1280, 500)
    page.js("document.querySelector('.card:last-child .head').click()")
    page.until("document.querySelector('.card.chosen') !== null")
    for _ in range(6):
        page.key("k")
    seen = """(() => { const [card, list] = ['.card.chosen', '.cards'].map(
        (one) => document.querySelector(one).getBoundingClientRect());
        return card.top >= list.top - 1 && card.bottom <= list.bottom + 1; })()"""
    page.until(seen)
    assert page.js("document.querySelector('.cards').scrollTop") > 0
    assert page.js("scrollY") == 0


@pytest.mark.parametrize("state", ["light", "dark", "phone", "policy", "search"])
def test_axe_finds_nothing_serious(page, state):
    axe = pytest.importorskip(
        "axe_core_python", reason="no axe-core-python: accessibility was not proven"
    )
    width = 390 if state == "phone" else 1280  # still: colours on their way have no contrast yet
    page.size(width, 844, dark=state == "dark", phone=state == "phone", still=True)
    if state == "policy":
        page.js("document.getElementById('policy').open = true")
        page.until("document.getElementById('policy-ttl').value === '10'")
    if state == "search":
        page.js("document.getElementById('search').value = 'purple'")
        page.js("document.getElementById('search').dispatchEvent(new Event('input'))")
        page.until("document.querySelector('mark') !== null")
    page.js((Path(axe.__file__).parent / "axe.min.js").read_text())
    found = page.js(
        "axe.run().then((r) => r.violations"
        ".filter((v) => !['minor', 'moderate'].includes(v.impact))"
        ".map((v) => v.id + ': ' + v.nodes.map((n) => n.html.slice(0, 200)).join(' | ')))"
    )
    assert found == []
    assert page.js("axe.run().then((r) => r.passes.length)") > 15


def test_search_pause_and_streams(page):
    page.key("/")
    page.until("document.activeElement.id === 'search'")
    for letter in "purple":
        page.key(letter)
    page.until("document.getElementById('found').textContent !== ''")
    # A region is also found by its earlier captions; then its caption of now has nothing to mark.
    page.until(
        "((all) => all.some((t) => t.querySelector('mark')) && all.every((t) =>"
        " t.textContent.toLowerCase().includes('purple') === Boolean(t.querySelector('mark'))))"
        "([...document.querySelectorAll('.card .text')])"
    )
    page.key("Escape")
    page.key("p")
    page.until(f"{STATE} === 'paused'")
    page.key("p")
    page.until(f"{STATE} === 'running'")


SAID = "document.getElementById('find-said').textContent"


def ask(page, text: str) -> None:
    page.js(
        f"document.getElementById('find-text').value = {text!r};"
        " document.getElementById('find').requestSubmit()"
    )


def test_a_text_lights_its_answers_and_says_what_is_not_there(page):
    page.key("t")
    page.until("document.activeElement.id === 'find-text'")
    ask(page, "a purple thing")
    page.until("document.querySelector('.stage.asked .answer span')?.textContent.endsWith(' %')")
    assert page.js(SAID).startswith("Found: ")
    assert page.js("document.querySelector('.card.chosen') !== null")
    ask(page, "a zebra <b>here</b>")
    page.until(f"({SAID}).includes('is not there')")
    assert page.js("document.querySelector('.answer, #find-said b')") is None
    page.js("document.getElementById('find-keep').checked = true")
    ask(page, "an orange thing")
    page.until(f"/^(Found|Looking|.*not there yet)/.test({SAID})")
    page.js("document.getElementById('find-text').focus()")
    page.key("Escape")
    page.until(f"({SAID}) === ''")


def test_policy_is_read_and_set(page):
    page.js("document.getElementById('policy').open = true")
    page.until("document.getElementById('policy-ttl').value === '10'")
    page.js(
        "document.getElementById('policy-ttl').value = 7;"
        " document.getElementById('policy-form').requestSubmit()"
    )
    page.until("document.getElementById('toast').textContent === 'In force now'")
    page.js("document.getElementById('policy-ttl').value = ''")
    page.js("document.getElementById('policy-for').dispatchEvent(new Event('change'))")
    page.until("document.getElementById('policy-ttl').value === '7'")


def test_the_shipped_captioner_describes_what_is_clicked(browser, live, demo, repository):
    if not SHIPPED_BUNDLE.is_dir():
        pytest.skip("no bundle here: a caption of the real captioner on the page was not proven")
    clip, prompts = demo
    script = repository / "run_node.py"
    node = live("--source", clip, "--prompts", prompts, "--loop", script=script)
    with ended(node.viewer()) as viewer:
        tab = browser()
        tab.size(1280, 800)
        tab.open(viewer.line("ureca view: "))
        tab.until(SHOWN, 120)
        before = tab.js(LIVE_CARDS)
        tab.click(*at(tab, 0.12, 0.12))
        tab.until(f"{LIVE_CARDS} > {before}")
        tab.until(f"({CHOSEN}).length > 3", 120)
        assert tab.console == []
        tab.close()
