"""Swin of lesson 11, against timm's, a naive loop over windows, and formulas."""

import dataclasses
import itertools
import math
import random

import pytest
import torch
from torch import nn
from wanted import library

from vit_edu import data, inspect, models, training
from vit_edu.models.costs import layer_cost, multiply_adds, window_attention_cost
from vit_edu.models.swin import (
    PatchMerging,
    Swin,
    SwinBlock,
    merge_patches,
    pair,
    relative_position_index,
    shifted_window_mask,
    window_partition,
    window_reverse,
)

timm = library("timm")
of_timm = library("timm.models.swin_transformer")

WINDOWS = [((8, 8), 4), ((4, 8), 2), ((6, 6), 3), ((12, 4), (3, 4)), ((2, 6), 2), ((5, 5), 5), ((1, 3), 1)]
SIZES = {
    "small": {"img_size": 32, "patch_size": 2, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4},
    "odd window": {"img_size": 56, "patch_size": 2, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "window_size": 7},
    "not square": {"img_size": (16, 48), "patch_size": 2, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4},
    "the window shrinks": {"img_size": 32, "patch_size": 2, "depths": (2, 1, 2), "num_heads": (1, 2, 4), "window_size": 8},
    # One axis is shorter than the window, and the other is shifted
    "shrinks and shifts": {"img_size": (32, 128), "patch_size": 2, "depths": (2, 3, 2), "num_heads": (1, 2, 4), "window_size": 8},
}  # fmt: skip
MORE = {"embed_dim": 16, "num_classes": 7, "mlp_ratio": 2}


def stirred(model):
    """The model in eval mode, with random weights that are large enough to see."""
    torch.manual_seed(0)
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    return model.eval().requires_grad_(False)


def both(size):
    """(ours, timm's) with the same weights."""
    theirs = stirred(timm.models.SwinTransformer(**MORE | SIZES[size]))
    ours = Swin(**MORE | SIZES[size]).eval()
    ours.load_state_dict(theirs.state_dict())  # strict: the names are the same
    return ours, theirs


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize(("grid", "window"), WINDOWS)
def test_windows_are_those_of_timm_and_come_back(grid, window):
    x = torch.randn(3, *grid, 5)
    size = (window, window) if isinstance(window, int) else window
    windows = window_partition(x, window)
    assert torch.equal(windows, of_timm.window_partition(x, size))
    assert torch.equal(window_reverse(windows, grid), x)


def test_windows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="6 x 8 tokens cannot be cut into windows of 4 x 4 without a rest"):
        window_partition(torch.zeros(1, 6, 8, 2), 4)
    with pytest.raises(ValueError, match="8 x 6 tokens cannot be cut"):
        window_reverse(torch.zeros(4, 4, 4, 2), (8, 6))
    with pytest.raises(ValueError, match="4 windows of this size, and 6 fill no whole maps"):
        window_reverse(torch.zeros(6, 4, 4, 2), (8, 8))


@pytest.mark.parametrize(("grid", "window"), WINDOWS)
def test_the_bias_index_is_that_of_timm(grid, window):
    rows, cols = (window, window) if isinstance(window, int) else window
    assert torch.equal(relative_position_index(window), of_timm.get_relative_position_index(rows, cols))


def published_mask(grid, window, shift):
    """As in the authors' code, swin_transformer.py: nine regions are numbered, and compared within each window."""
    image, count = torch.zeros(1, *grid, 1), 0
    slices = [
        [slice(0, -w), slice(-w, -s if s else None), slice(-s, None)]
        for w, s in zip(window, shift, strict=True)
    ]
    for rows in slices[0]:
        for cols in slices[1]:
            image[:, rows, cols] = count
            count += 1
    windows = of_timm.window_partition(image, window).flatten(1)
    mask = windows.unsqueeze(1) - windows.unsqueeze(2)
    return mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0)


@pytest.mark.parametrize(("grid", "window"), WINDOWS)
def test_the_mask_is_the_published_one(grid, window):
    rows, cols = (window, window) if isinstance(window, int) else window
    for shift in ((i, j) for i in range(rows) for j in range(cols)):
        mask = shifted_window_mask(grid, window, shift)
        assert torch.equal(mask, published_mask(grid, (rows, cols), shift))
        assert bool(mask.any()) == any(shift)
        if shift[0] == shift[1]:
            assert torch.equal(mask, shifted_window_mask(grid, window, shift[0]))


@pytest.mark.parametrize("shift", [4, -1, (0, 4)])
def test_a_shift_of_a_whole_window_is_refused(shift):
    with pytest.raises(ValueError, match=r"smaller than the window, \(4, 4\), got"):
        shifted_window_mask((8, 8), 4, shift)


def test_neighbours_merge_in_the_published_order():
    x = torch.randn(2, 4, 6, 3)
    four = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    assert torch.equal(merge_patches(x), torch.cat(four, dim=-1))
    with pytest.raises(ValueError, match="4 x 5 tokens cannot be cut into windows of 2 x 2"):
        merge_patches(x[:, :, :5])
    theirs = stirred(of_timm.PatchMerging(3))
    ours = PatchMerging(3)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


# ---------------------------------------------------------------- shifted window attention, written out


def naive(block, x):
    """`block.attend`, token by token: windows begin at the shift, nothing is rolled, and the border's windows are smaller."""
    attn, (rows, cols), (up, left) = block.attn, block.window, block.shift
    B, H, W, D = x.shape
    qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1))  # (B, H, W, 3, h, d)
    out = torch.zeros(B, H, W, attn.num_heads, D // attn.num_heads)
    places = [(r, c) for r in range(H) for c in range(W)]
    window = {(r, c): ((r - up) // rows, (c - left) // cols) for r, c in places}
    for r, c in places:
        seen = [place for place in places if window[place] == window[r, c]]
        k = torch.stack([qkv[:, i, j, 1] for i, j in seen], dim=2)  # (B, h, n, d)
        v = torch.stack([qkv[:, i, j, 2] for i, j in seen], dim=2)
        q = qkv[:, r, c, 0]  # (B, h, d)
        offsets = [(r - i + rows - 1) * (2 * cols - 1) + c - j + cols - 1 for i, j in seen]
        bias = attn.relative_position_bias_table[offsets].T  # (h, n)
        weights = (torch.einsum("bhd,bhnd->bhn", q, k) / q.shape[-1] ** 0.5 + bias).softmax(dim=-1)
        out[:, r, c] = torch.einsum("bhn,bhnd->bhd", weights, v)
    return attn.proj(out.flatten(3))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("grid", "window"), [((8, 8), 4), ((4, 6), 2), ((6, 6), 3), ((4, 8), 4), ((3, 3), 7)]
)
def test_windows_rolled_and_masked_are_those_that_were_shifted(grid, window, shifted):
    block = stirred(SwinBlock(8, grid, 2, window, shifted))
    x = torch.randn(2, *grid, 8)
    assert any(block.shift) == (shifted and max(grid) > window)
    torch.testing.assert_close(block.attend(x), naive(block, x), atol=1e-6, rtol=1e-6)


def test_without_the_mask_opposite_borders_see_each_other():
    block = stirred(SwinBlock(8, (8, 8), 2, 4, shifted=True))
    x = torch.randn(2, 8, 8, 8)
    right, block.attn_mask = block.attend(x), None
    wrong = block.attend(x)
    difference = (right - wrong).abs().amax(dim=(0, 3))  # (H, W)
    assert difference[2:6, 2:6].max() < 1e-6  # the one window that lies inside
    border = torch.ones(8, 8, dtype=bool)
    border[2:6, 2:6] = False
    assert difference[border].min() > 1e-3
    assert difference.max() > 0.1


# ---------------------------------------------------------------- random sizes, against loops over windows and pairs


def drawn_maps(count, seed):
    """(grid, window, images, width), this many times: at most 3 x 3 windows with sides of at most 4."""
    draw = random.Random(seed)
    for _ in range(count):
        window = draw.randint(1, 4), draw.randint(1, 4)
        grid = tuple(side * draw.randint(1, 3) for side in window)
        square = window[0] == window[1] and draw.random() < 0.5
        yield grid, window[0] if square else window, draw.randint(1, 3), draw.randint(1, 4)


def corners(grid, window):
    """The first token of each window, in reading order, as (row, column)."""
    return list(itertools.product(*(range(0, side, step) for side, step in zip(grid, window, strict=True))))


def test_windows_are_those_of_a_loop():
    for grid, window, images, width in drawn_maps(300, 0):
        x, (rows, cols) = torch.rand(images, *grid, width), pair(window)
        each = [image[i : i + rows, j : j + cols] for image in x for i, j in corners(grid, (rows, cols))]
        windows = window_partition(x, window)
        assert torch.equal(windows, torch.stack(each))
        assert torch.equal(window_reverse(windows, grid), x)


def test_the_mask_lets_those_see_each_other_that_are_as_far_apart_as_before():
    draw = random.Random(1)
    for grid, window, _images, _width in drawn_maps(250, 2):
        rows, cols = pair(window)
        up, left = shift = draw.randrange(rows), draw.randrange(cols)
        found = shifted_window_mask(grid, window, shift).tolist()
        for mask, (i, j) in zip(found, corners(grid, (rows, cols)), strict=True):
            now = list(itertools.product(range(i, i + rows), range(j, j + cols)))
            before = [((r + up) % grid[0], (c + left) % grid[1]) for r, c in now]
            moved = [(a - r, b - c) for (a, b), (r, c) in zip(before, now, strict=True)]
            assert mask == [[0.0 if a == b else -100.0 for b in moved] for a in moved]


def test_the_index_numbers_the_offsets_of_all_pairs():
    for rows, cols in itertools.product(range(1, 8), range(1, 8)):
        offsets = itertools.product(range(1 - rows, rows), range(1 - cols, cols))
        number = {offset: i for i, offset in enumerate(offsets)}
        places = list(itertools.product(range(rows), range(cols)))
        wanted = [[number[a - c, b - d] for c, d in places] for a, b in places]
        assert relative_position_index((rows, cols)).tolist() == wanted


def test_merging_is_that_of_a_loop():
    draw = random.Random(3)
    for _ in range(150):
        images, rows, cols, width = (draw.randint(1, 4) for _ in range(4))
        x = torch.rand(images, 2 * rows, 2 * cols, width)
        merged = merge_patches(x)
        for b, i, j in itertools.product(range(images), range(rows), range(cols)):
            r, c = 2 * i, 2 * j
            four = torch.cat([x[b, r, c], x[b, r + 1, c], x[b, r, c + 1], x[b, r + 1, c + 1]])
            assert torch.equal(merged[b, i, j], four)


def test_the_cost_is_a_sum_over_windows():
    for grid, window, _images, width in drawn_maps(300, 4):
        inside = math.prod(pair(window))
        wanted = sum(4 * inside * width**2 + 2 * inside**2 * width for _ in corners(grid, pair(window)))
        assert window_attention_cost(grid, width, window) == wanted


def over_all_pairs(block, x):
    """`block.attend` as attention over the whole map, from which pairs are left out that share no window; nothing is rolled."""
    attn, sides = block.attn, block.window
    place = torch.cartesian_prod(*map(torch.arange, x.shape[1:3]))  # (N, 2)
    number = (place - torch.tensor(block.shift)).div(
        torch.tensor(sides), rounding_mode="floor"
    )  # of the window
    together = (number[:, None] == number).all(dim=-1)  # (N, N)
    down, right = (place[:, None] - place).unbind(-1)
    offset = (down + sides[0] - 1) * (2 * sides[1] - 1) + right + sides[1] - 1
    bias = attn.relative_position_bias_table[offset.where(together, 0)].permute(2, 0, 1)  # (h, N, N)
    q, k, v = attn.qkv(x.flatten(1, 2)).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    scores = q @ k.mT / q.shape[-1] ** 0.5 + bias.masked_fill(~together, -torch.inf)
    return attn.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)).view(x.shape)


def test_attention_in_shifted_windows_is_that_over_the_pairs_that_share_one():
    for grid, window, images, _width in drawn_maps(50, 5):
        block = stirred(SwinBlock(4, grid, 2, window, shifted=True))
        x = torch.randn(images, *grid, 4)
        torch.testing.assert_close(block.attend(x), over_all_pairs(block, x), atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- the whole model


@pytest.mark.parametrize("size", SIZES)
def test_names_and_outputs_are_those_of_timm(size):
    ours, theirs = both(size)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 3, *ours.patch_embed.img_size)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.patch_embed(x), theirs.patch_embed(x))
    for mine, their in zip(ours.layers, theirs.layers, strict=True):
        for a, b in zip(mine.blocks, their.blocks, strict=True):
            assert (a.window, a.shift) == (b.window_size, b.shift_size)


def test_drop_rates_are_those_of_timm():
    arguments = MORE | SIZES["the window shrinks"] | {"drop_path_rate": 0.3}
    ours, theirs = Swin(**arguments), timm.models.SwinTransformer(**arguments)
    mine = [block.drop_path.drop_prob for stage in ours.layers for block in stage.blocks]
    their = [getattr(block.drop_path1, "drop_prob", 0.0) for stage in theirs.layers for block in stage.blocks]
    assert mine == pytest.approx(their)
    x = torch.randn(4, 3, 32, 32)
    assert not torch.equal(ours.train()(x), ours(x))


def test_shapes_without_a_head_and_with_other_channels():
    assert Swin(num_classes=0)(torch.randn(2, 3, 32, 32)).shape == (2, 64)
    assert Swin(in_chans=1, img_size=(16, 32))(torch.randn(2, 1, 16, 32)).shape == (2, 10)
    made = models.make_model({"kind": "swin", "depths": [1, 1], "num_heads": [1, 1]}, (3, 32, 32), 4)
    assert type(made) is Swin


def test_what_looks_into_a_vit_says_that_it_cannot_look_into_a_swin():
    x = torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match="this Swin has no head"):
        inspect.running.logits_of(Swin(num_classes=0), x)
    with pytest.raises(ValueError, match="Swin has no list of blocks"):
        inspect.hidden_tokens(Swin(), x)
    with pytest.raises(ValueError, match="attention"):
        inspect.attention_maps(stirred(Swin()), x)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\), got \(2, 3, 40, 32\)"):
        Swin()(torch.randn(2, 3, 40, 32))
    with pytest.raises(ValueError, match="33 x 33 pixels cannot be cut into 2 x 2 patches"):
        Swin(img_size=33)
    with pytest.raises(ValueError, match="14 x 14 tokens cannot be cut into windows of 4 x 4"):
        Swin(img_size=28)
    with pytest.raises(ValueError, match="7 x 7 tokens cannot be cut into windows of 2 x 2"):
        Swin(img_size=14, window_size=7)
    with pytest.raises(ValueError, match=r"a depth and a number of heads, got \(2, 2\) and \(2,\)"):
        Swin(num_heads=(2,))
    with pytest.raises(ValueError, match="multiple of num_heads"):
        Swin(num_heads=(3, 4))


# ---------------------------------------------------------------- training


def recipe_of(**changes):
    arguments = {"kind": "swin", "patch_size": 4, "embed_dim": 16, "depths": (2, 1), "num_heads": (1, 2)}
    changes = {
        "epochs": 1,
        "batch_size": 16,
        "max_images": 64,
        "optimizer": "muon",
        "zero_init": True,
        "model": arguments,
    } | changes
    return dataclasses.replace(training.RECIPES["fast"], **changes)


def test_what_muon_trains_what_decays_and_where_branches_end():
    model = Swin(depths=(2, 1))
    named = {id(value): name for name, value in model.named_parameters()}
    inner = {named[id(value)] for value in model.inner_matrices()}
    rest = {name for name, value in model.named_parameters() if value.ndim > 1} - inner
    tables = {f"layers.{i}.blocks.{j}.attn.relative_position_bias_table" for i, j in ((0, 0), (0, 1), (1, 0))}
    assert rest == {"head.fc.weight"} | tables
    assert {"patch_embed.proj.weight", "layers.1.downsample.reduction.weight"} <= inner
    optimizer = training.optim.make_optimizer(model, recipe_of(optimizer="adamw"))
    still = {
        named[id(v)] for group in optimizer.param_groups if not group["weight_decay"] for v in group["params"]
    }
    assert tables <= still
    assert len(model.branch_ends()) == 6


def test_blocks_begin_as_the_identity():
    model = training.build_model(recipe_of(), data.shapes(train=20, test=10)).eval()
    x = torch.randn(2, 8, 8, 16)
    assert torch.equal(model.layers[0](x), x)


def test_it_trains_saves_and_loads(tmp_path):
    images, recipe = data.shapes(train=80, test=10), recipe_of()
    model = training.build_model(recipe, images)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    training.fit(model, images, recipe, out=tmp_path)
    assert not any(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    loaded, state = training.load_run(tmp_path)
    assert type(loaded) is Swin
    assert state["recipe"]["model"]["kind"] == "swin"
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), model.eval()(x), atol=0, rtol=0)


def test_a_token_schedule_is_refused():
    images, recipe = data.shapes(train=20, test=10), recipe_of(tokens=((0.5, 0.5),))
    with pytest.raises(ValueError, match="a Swin has no `blocks` that could see fewer tokens"):
        training.fit(training.build_model(recipe, images), images, recipe)


def test_a_compiled_step_takes_it():
    model = Swin(depths=(2,), num_heads=(1,))
    step = training.CompiledStep(model, torch.optim.SGD(model.parameters(), lr=0.1), backend="eager")
    losses = [float(step(torch.ones(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))) for _ in range(2)]
    assert step.loss_of != step._loss  # it did not fall back
    assert losses[1] < losses[0]


# ---------------------------------------------------------------- what it costs


class Attend(nn.Module):
    """The attention of a block, (B, D, H, W) -> (B, H, W, D)."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block.attend(x.permute(0, 2, 3, 1))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), [*WINDOWS, ((16, 8), 4)])
def test_the_cost_of_window_attention_is_what_torch_counts(grid, window, shifted):
    block = SwinBlock(8, grid, 2, window, shifted)
    assert window_attention_cost(grid, 8, window) == multiply_adds(Attend(block), (8, *grid))


def test_window_attention_is_linear_in_the_tokens_and_global_attention_is_not():
    assert window_attention_cost((64, 32), 6, 4) == 8 * window_attention_cost((16, 16), 6, 4)
    assert window_attention_cost((7, 7), 96, 7) == layer_cost("attention", 49, 96)[1]
    assert layer_cost("attention", 8 * 256, 6)[1] > 8 * layer_cost("attention", 256, 6)[1]
    with pytest.raises(ValueError, match="6 x 8 tokens cannot be cut into windows of 4 x 4"):
        window_attention_cost((6, 8), 8, 4)


def test_a_whole_swin_in_closed_form():
    model = Swin(img_size=32, patch_size=2, embed_dim=8, depths=(2, 1), num_heads=(1, 2), window_size=4)
    stages = sum(
        depth * (window_attention_cost((side, side), dim, 4) + layer_cost("mlp", side**2, dim)[1])
        for depth, side, dim in ((2, 16, 8), (1, 8, 16))
    )
    merging = 64 * (4 * 8) * (2 * 8)
    assert multiply_adds(model, (3, 32, 32)) == 256 * (3 * 2 * 2) * 8 + stages + merging + 16 * 10
