"""The explorer holds the model's own weights, asks no network, and can be used with mouse, finger and keyboard."""

import base64
import html
import io
import json
import re
import zlib

import browser
import numpy as np
import pytest
import torch
from PIL import Image
from wanted import library

from vit_edu import inspect, plot
from vit_edu.models import HybridViT, ViT
from vit_edu.models.variants import PublishedViT

nbconvert = library("nbconvert")
nbformat = library("nbformat")

SMALL = {"patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 3}
MODELS = {
    "class token": (lambda: ViT(img_size=16, **SMALL), ["class token"]),
    "none": (lambda: ViT(img_size=16, global_pool="avg", **SMALL), []),
    "wide": (lambda: ViT(img_size=(8, 20), **SMALL), ["class token"]),
    "high": (lambda: HybridViT(img_size=(20, 8), stem=((8, 2),), **SMALL), ["class token"]),
    "registers": (
        lambda: PublishedViT(img_size=16, dist_token=True, registers=2, **SMALL),
        ["class token", "distillation token", "register 0", "register 1"],
    ),
}
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "</script><b>&amp;'")


def shaken(model):
    """The model with weights so large that its heads look at different places, as trained ones do."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.3 * torch.randn_like(value)
    return model.eval()


def made(name="class token"):
    return shaken(MODELS[name][0]())


def images_for(model, count=2):
    return torch.randn(count, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


def data_of(explorer):
    return json.loads(html.unescape(re.search(r'data-explorer="([^"]*)"', explorer._repr_html_())[1]))


def weights_of(data):
    """What the page decodes: the weights (L, B, h, T, T) and rollout (B, T, T)."""
    flat = np.frombuffer(zlib.decompress(base64.b64decode(data["weights"])), np.uint8) / 255
    B, T = len(data["pictures"]), len(data["prefix"]) + data["grid"][0] * data["grid"][1]
    whole = torch.tensor(flat**2, dtype=torch.float32)
    maps = whole[: -B * T * T].reshape(len(data["blocks"]), B, data["heads"], T, T)
    return maps, whole[-B * T * T :].reshape(B, T, T)


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize("name", MODELS)
def test_it_holds_the_weights_of_the_model(name):
    model = made(name).train()
    images = images_for(model)
    data = data_of(plot.attention_explorer(model, images))
    assert model.training
    assert data["prefix"] == MODELS[name][1]
    assert tuple(data["grid"]) == model.patch_embed.grid_size
    maps, flow = weights_of(data)
    expected = inspect.attention_maps(model, images)
    torch.testing.assert_close(maps, expected, atol=0.004, rtol=0)
    torch.testing.assert_close(flow, inspect.rollout(expected), atol=0.004, rtol=0)
    low = expected < 0.02
    assert (maps - expected)[low].abs().max() < 0.0006  # small weights are kept more exactly


def test_blocks_can_be_chosen_and_rollout_still_goes_through_all():
    model = made()
    images = images_for(model)
    data = data_of(plot.attention_explorer(model, images, blocks=[-1, 0, 2]))
    assert (data["blocks"], data["depth"]) == ([0, 2], 3)
    maps, flow = weights_of(data)
    expected = inspect.attention_maps(model, images)
    torch.testing.assert_close(maps, expected[[0, 2]], atol=0.004, rtol=0)
    torch.testing.assert_close(flow, inspect.rollout(expected), atol=0.004, rtol=0)


def test_what_is_shown_are_the_pictures_or_the_stretched_images():
    model = made()
    pictures = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    images = (pictures.float() / 255 - 0.4) / 0.2
    shown = data_of(plot.attention_explorer(model, images, pictures=pictures))["pictures"]
    assert np.array_equal(decoded(shown[1]), pictures[1].permute(1, 2, 0).numpy())
    stretched = decoded(data_of(plot.attention_explorer(model, images))["pictures"][0])
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_pixels_that_fill_no_patch_are_not_shown():
    model = PublishedViT(img_size=(18, 23), **SMALL)
    shown = data_of(plot.attention_explorer(model, images_for(model)))["pictures"]
    assert decoded(shown[0]).shape == (16, 20, 3)


def test_names_of_classes_are_text_wherever_they_stand():
    explorer = plot.attention_explorer(made(), images_for(made()), torch.tensor([0, 2]), HOSTILE)
    captions = data_of(explorer)["captions"]
    assert captions[0].startswith(f"image 0: {HOSTILE[0]}; the model says ")
    assert HOSTILE[2] in captions[1]
    page = explorer._repr_html_()
    assert page.count("<script>") == page.count("</script>") == 1
    assert not any(name in page for name in HOSTILE)
    assert plot.attention_explorer(made(), images_for(made()), [2, 1]).alt.count("class 2") == 1


def test_a_handful_of_images_fits_and_nothing_is_fetched():
    model = ViT(global_pool="avg", depth=4, num_heads=2)  # as large as vit-cifar10
    explorer = plot.attention_explorer(model, torch.rand(4, 3, 32, 32))
    page = explorer._repr_html_()
    assert len(page.encode()) <= 300_000
    assert not re.search(r"https?:|[\"']//|url\(|@import|fetch\(|XMLHttp|import\(|WebSocket", page)
    assert repr(explorer).startswith("[explorer] Attention of 4 blocks with 2 heads")
    assert (
        page.count('<img src="data:image/png;base64,') == 8
    )  # where no script runs: each picture, plain and lit


@pytest.mark.parametrize(
    ("shape", "count", "offers"),
    [
        ({"depth": 8, "num_heads": 4}, 4, [r"hand over (\d) images? instead of 4", r", or choose \d of the 8 blocks, such as blocks=(\[0, 1.*\])\."]),
        ({"depth": 2, "num_heads": 2}, 40, [r"for 40 images: hand over (\d+) images? instead of 40\."]),
        ({"depth": 16, "num_heads": 16}, 12, [r"choose a single block of a single image: images\[:(1)\] and blocks=(\[-1\])\."]),
        ({"depth": 1, "num_heads": 8, "img_size": 72}, 1, [r"1 block for 1 image: even one block of one image is too large\."]),
    ],
)  # fmt: skip
def test_what_would_be_too_large_is_refused_with_what_fits(shape, count, offers):
    model = shaken(ViT(**shape))
    images = torch.randn(count, 3, *model.patch_embed.img_size)
    with pytest.raises(ValueError, match=r"more than 300 KB") as refused:
        plot.attention_explorer(model, images)
    for offer in offers:
        found = re.search(offer, str(refused.value))
        assert found, refused.value
        if found.groups():  # what is offered does fit
            fewer = next((int(n) for n in found.groups() if n.isdigit()), count)
            blocks = next((json.loads(n) for n in found.groups() if n.startswith("[")), None)
            plot.attention_explorer(model, images[:fewer], blocks=blocks)


def test_bad_arguments_are_refused():
    model = made()
    images = images_for(model)
    cases = {
        "no attention": lambda: plot.attention_explorer(torch.nn.Flatten(), images),
        "at least one": lambda: plot.attention_explorer(model, images[:0]),
        "a picture for each of the 2": lambda: plot.attention_explorer(model, images, pictures=images[:1]),
        "a label for each of the 2": lambda: plot.attention_explorer(model, images, [1]),
        "labels from 0 to 1": lambda: plot.attention_explorer(model, images, [0, 2], ("a", "b")),
        "from 0 to 2, or negative": lambda: plot.attention_explorer(model, images, blocks=[3]),
        "got 1.": lambda: plot.attention_explorer(model, images, blocks=1),
        "got [].": lambda: plot.attention_explorer(model, images, blocks=[]),
        "got [0.5].": lambda: plot.attention_explorer(model, images, blocks=[0.5]),
    }
    for says, call in cases.items():
        with pytest.raises(ValueError, match=re.escape(says)):
            call()


# ---------------------------------------------------------------- in a real browser

INSIDE = "document.querySelectorAll('.vit-edu-explorer')[{}].shadowRoot"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    process, address = browser.start_or_skip(tmp_path_factory.mktemp("profile"))
    yield address
    process.terminate()
    process.wait(30)


@pytest.fixture
def page(address, tmp_path):
    """A browser's page with two explorers: one of a model with prefix tokens, and one whose grid is no square."""
    page = browser.Page(address)
    models = made("registers"), made("wide")
    explorers = [plot.attention_explorer(m, images_for(m), [0, 1], HOSTILE) for m in models]
    page.models, page.data = models, [data_of(e) for e in explorers]
    bodies = "<p>between</p>".join(e._repr_html_() for e in explorers)
    (tmp_path / "page.html").write_text(f'<!doctype html><meta charset="utf-8">{bodies}', encoding="utf-8")
    page.prefer("light")
    page.open(tmp_path / "page.html")
    page.wait("[...document.querySelectorAll('.vit-edu-explorer')].filter(e => e.shadowRoot).length === 2")
    for number in (0, 1):
        page.wait(f"{INSIDE.format(number)}.querySelector('.readout').textContent")
    yield page
    page.close()


def inside(page, code, number=0):
    return page.run(f"(() => {{ const page = {INSIDE.format(number)}; return {code} }})()")


def centre(page, selector, number=0):
    """The middle of an element, which is scrolled into the window."""
    return inside(
        page,
        f"(e => (e.scrollIntoView({{block: 'center'}}), (b => [b.x + b.width / 2, b.y + b.height / 2])(e.getBoundingClientRect())))"
        f"(page.querySelector({json.dumps(selector)}))",
        number,
    )


def reads(page, words, number=0):
    """Wait for words in the line that is read out."""
    page.wait(f"{INSIDE.format(number)}.querySelector('.readout').textContent.includes({json.dumps(words)})")


def said(weights, prefix, cols):
    """The patch with the largest of a row of weights, and this weight, as the page names them."""
    place = weights[prefix:].argmax().item()
    weight = weights[prefix + place].item()
    return f"row {place // cols}, column {place % cols}", f"{100 * weight:.{int(weight < 0.0995)}f}\u00a0%"


def test_pointing_at_a_patch_shows_where_each_head_looks(page):
    maps, flow = weights_of(page.data[0])
    page.mouse(*centre(page, "[data-token='10']"))  # four in front, then row 1, column 2
    reads(page, "Patch row 1, column 2, block 2, mean over 2 heads")
    rows = [*maps[2, 0, :, 10], maps[2, 0, :, 10].mean(dim=0), flow[0, 10]]
    options = inside(page, "[...page.querySelectorAll('.right .option')].map(e => e.textContent)")
    assert len(options) == 4
    for shown, name, row in zip(options, ("head 0", "head 1", "mean", "rollout"), rows, strict=True):
        place, weight = said(row, 4, 4)
        assert shown.startswith(f"{name}{weight}")
        assert place in shown or (place == "row 1, column 2" and "itself" in shown)
    page.mouse(1, 1)  # away again: back to the token that is chosen
    reads(page, "The class token, block 2")


def test_a_click_stays_and_a_tap_as_well(page):
    page.mouse(*centre(page, "[data-token='4']"), click=True)
    page.mouse(1, 1)
    reads(page, "Patch row 0, column 0")
    page.tap(*centre(page, "[data-token='19']"))
    reads(page, "Patch row 3, column 3")
    page.mouse(*centre(page, "[data-token='2']"), click=True)
    reads(page, "Register 0, block 2")
    assert inside(page, "page.querySelector('[aria-checked=true]').dataset.token") == "2"


def test_everything_can_be_reached_with_the_keyboard_alone(page):
    page.key("Tab")
    page.key("ArrowRight")  # the images
    assert inside(page, "page.querySelector('.caption').textContent").startswith(f"image 1: {HOSTILE[1]}")
    page.key("Tab")
    page.key("ArrowLeft")  # the blocks
    reads(page, "The class token, block 1")
    page.key("Tab")
    for key, token in (("ArrowRight", "distillation"), ("ArrowDown", "row 0, column 0"), ("End", "row 0, column 3"),
                       ("ArrowDown", "row 1, column 3"), ("ArrowRight", "row 1, column 3"), ("ArrowLeft", "row 1, column 2"),
                       ("Home", "row 1, column 0"), ("ArrowUp", "row 0, column 0"), ("ArrowUp", "Register 1")):  # fmt: skip
        page.key(key)
        reads(page, token)
    page.key("End", control=True)
    reads(page, "Patch row 3, column 3, block 1, mean over 2 heads")
    focus = inside(page, "getComputedStyle(page.activeElement).outline")
    assert "4px" in focus
    page.key("Tab")
    before = inside(page, "page.querySelector('.cells').innerHTML")
    page.key(" ")  # the picture is no longer darkened
    assert inside(page, "page.querySelector('.cells').innerHTML") != before
    page.key("Tab")
    page.key("ArrowRight")  # the maps
    reads(page, "Patch row 3, column 3, rollout through all 3 blocks, looks most at")
    page.key("ArrowRight")
    reads(page, "Patch row 3, column 3, block 1, head 0, looks most at")
    maps, _ = weights_of(page.data[0])
    assert said(maps[1, 1, 0, 19], 0, 99)[1] in inside(page, "page.querySelector('.readout').textContent")


def test_explorers_on_one_page_do_not_disturb_each_other(page):
    before = inside(page, "page.querySelector('.explorer').innerHTML")
    page.mouse(*centre(page, "[data-token='8']", 1), click=True)
    reads(page, "Patch row 1, column 2, block 2", 1)
    page.mouse(*centre(page, ".blocks .option", 1), click=True)
    reads(page, "Patch row 1, column 2, block 0", 1)
    assert inside(page, "page.querySelector('.explorer').innerHTML") == before
    assert inside(
        page, "[page.querySelectorAll('.cell').length, page.querySelectorAll('.columns span').length]", 1
    ) == [10, 5]
    box = inside(
        page, "(b => [b.width, b.height])(page.querySelector('.picture').getBoundingClientRect())", 1
    )
    assert box[0] / box[1] == pytest.approx(2.5, rel=0.01)


def test_nothing_leaves_the_page_and_no_name_becomes_code(page):
    page.mouse(*centre(page, "[data-token='10']"), click=True)
    assert {address.partition(":")[0] for address in page.requests} <= {"file", "data"}
    assert sum(address.startswith("file:") for address in page.requests) == 1
    assert page.errors == []
    assert inside(page, "page.querySelectorAll('script, b').length") == 1  # the <b> of the first sentence
    assert inside(page, "[...page.querySelectorAll('[role=radio]')].every(e => e.getAttribute('aria-label'))")
    assert inside(page, "page.querySelector('.readout').getAttribute('aria-live')") == "polite"


LUMINANCE = """(() => {
  const page = %s, style = (e) => getComputedStyle(page.querySelector(e));
  const light = (c) => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  return [style('.explorer').backgroundColor, style('.explorer').color, style('.told').color].map(light);
})()"""


@pytest.mark.parametrize("theme", ["light", "dark", "JupyterLab dark", "JupyterLab light"])
def test_it_is_readable_in_every_theme(page, theme):
    if theme.startswith("JupyterLab"):  # its theme counts, whatever the system prefers
        page.prefer({"JupyterLab dark": "light", "JupyterLab light": "dark"}[theme])
        ground, ink, faint = (
            ("#111111", "#fff", "#bbb") if theme.endswith("dark") else ("#fff", "#222", "#666")
        )
        names = {
            "layout-color0": ground,
            "layout-color2": ground,
            "content-font-color1": ink,
            "content-font-color2": faint,
        }
        for name, value in names.items():
            page.run(f"document.documentElement.style.setProperty('--jp-{name}', '{value}')")
    else:
        page.prefer(theme)
    ground, *inks = page.run(LUMINANCE % INSIDE.format(0))
    assert (ground < 40) == theme.endswith("dark")
    assert all(abs(ground - ink) > 110 for ink in inks)
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
    assert abs(np.median(shot[20:80, 30:800]) - ground) < 12  # and the reader sees it


def test_it_fits_a_narrow_window(page):
    page.prefer("light", width=390)
    assert page.run("document.documentElement.scrollWidth") <= 390


def test_it_works_on_a_page_of_the_course(address, tmp_path):
    model = made()
    explorer = plot.attention_explorer(model, images_for(model))
    cell = nbformat.v4.new_code_cell(
        outputs=[nbformat.v4.new_output("execute_result", {"text/html": explorer._repr_html_()})]
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    exported, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    # Without the addresses of MathJax and RequireJS, which nbconvert writes into every page
    (tmp_path / "lesson.html").write_text(re.sub(r'src="https?://[^"]*"', "", exported), encoding="utf-8")
    page = browser.Page(address)
    page.prefer("dark")
    page.open(tmp_path / "lesson.html")
    page.wait("!!document.querySelector('.vit-edu-explorer').shadowRoot")
    reads(page, "The class token, block 2")
    ground, ink, _ = page.run(LUMINANCE % INSIDE.format(0))
    assert ground > 200 > 110 > ink  # such a page is light, whatever the system prefers
    page.close()
