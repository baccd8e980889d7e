"""Lesson 11, segmentation: from tokens to a map of classes, intersection over union of each class, a loss for rare classes."""

import torch
import torch.nn.functional as F

from vit_edu import masks as lesson
from vit_edu.check.cases import call, drawn, generator, in_double, not_contiguous, passes_gradient
from vit_edu.check.engine import Exercise
from vit_edu.check.probes import Sizes

# ---------------------------------------------------------------- from tokens to a map


def _patches(images, rows, columns, classes, height, width):
    return drawn(images, rows * columns, classes), (rows, columns), (height, width)


tokens_to_map = Exercise(
    lesson.tokens_to_map,
    call(
        "1 row of 2 patches, 1 class, an image of 1 x 4 pixels",
        torch.tensor([[[0.0], [4.0]]]),
        (1, 2),
        (1, 4),
        hint="The centres of the patches lie at 1 and 3, those of the pixels at 0.5, 1.5, 2.5, 3.5. So the answer is 0, 1, 3, 4.",
    ),
    call(
        "2 x 3 patches, 1 class, as many pixels as patches",
        torch.arange(6.0).reshape(1, 6, 1),
        (2, 3),
        (2, 3),
        hint="Nothing to interpolate here: the patches come row by row.",
    ),
    call("2 images, 2 x 3 patches, 4 classes, patches of 4 x 4", *_patches(2, 2, 3, 4, 8, 12)),
    call("more rows than columns, 4 x 2", *_patches(1, 4, 2, 3, 8, 4)),
    call("a square grid, 3 x 3", *_patches(2, 3, 3, 5, 12, 12)),
    call("as many classes as patches, 4", *_patches(3, 2, 2, 4, 6, 6)),
    call(
        "patches that are 2 high and 5 wide",
        *_patches(2, 3, 2, 2, 6, 10),
        hint="`F.interpolate` takes the size that you want: size=image_size.",
    ),
    call("patches that are 3 high and 1 wide", *_patches(2, 2, 3, 2, 6, 3)),
    call(
        "an image whose sides are no multiples of the grid",
        *_patches(1, 2, 3, 2, 7, 10),
        hint="`F.interpolate` takes the size that you want: size=image_size.",
        kind="property",
    ),
    call("a single class", *_patches(2, 2, 3, 1, 4, 6), kind="property"),
    call("a single patch", *_patches(2, 1, 1, 3, 4, 4), kind="property"),
    not_contiguous(*_patches(2, 2, 3, 4, 4, 6)),
    in_double(*_patches(2, 2, 3, 4, 4, 6)),
    passes_gradient(*_patches(2, 2, 3, 4, 4, 6)),
    sizes=(
        Sizes(
            lambda images, rows, columns, classes, patch: call(
                "", *_patches(images, rows, columns, classes, rows * patch, columns * patch)
            ),
            images=(5, 4, 2, 8),
            rows=(3, 5, 4, 8, 2),
            columns=(7, 6, 4, 8, 3),
            classes=(6, 3, 5, 4, 2),
            patch=(2, 3, 4, 8),
        ),
        Sizes(
            lambda image_height, image_width: call("", *_patches(2, 3, 5, 4, image_height, image_width)),
            image_height=(12, 18, 32, 16),
            image_width=(20, 30, 32, 16),
        ),
    ),
)


def _on_the_grid(tokens, grid):
    return tokens.transpose(1, 2).unflatten(2, grid)


def _upsampled(maps, size, mode="bilinear"):
    return F.interpolate(maps, size=size, mode=mode)


def _mapped(before=lambda tokens: tokens, place=_on_the_grid, up=_upsampled, after=lambda maps: maps):
    """The map with one part changed. before: tokens -> tokens. place: tokens, grid -> maps. up: maps, (H, W) -> maps. after."""
    return lambda tokens, grid, image_size: after(up(place(before(tokens), grid), image_size))


def _by_factors(factors):
    """factors: grid, (H, W) -> by how much rows and columns are enlarged."""
    return lambda tokens, grid, image_size: F.interpolate(
        _on_the_grid(tokens, grid), scale_factor=factors(grid, image_size), mode="bilinear"
    )


def _along_the_sequence(tokens, grid, image_size):
    H, W = image_size
    return F.interpolate(tokens.transpose(1, 2), size=H * W, mode="linear").unflatten(2, (H, W))


def _root(tokens, grid):
    """Maps on the grid, if it were a square."""
    side = int(tokens.shape[1] ** 0.5)
    return _on_the_grid(tokens, (side, side))


tokens_to_map.add_mistakes(
    counted_in_columns=_mapped(place=lambda tokens, grid: _on_the_grid(tokens, (grid[1], grid[0]))),
    transposed=_mapped(place=lambda tokens, grid: _on_the_grid(tokens, grid).mT),
    columns_first=_mapped(place=lambda tokens, grid: _on_the_grid(tokens, (grid[1], grid[0])).mT),
    reshaped=_mapped(place=lambda tokens, grid: tokens.reshape(len(tokens), -1, *grid)),
    images_mixed=_mapped(place=lambda tokens, grid: tokens.permute(2, 0, 1).reshape(len(tokens), -1, *grid)),
    classes_last=_mapped(place=lambda tokens, grid: tokens.unflatten(1, grid)),
    grid_ignored=_mapped(place=_root),
    upside_down=_mapped(after=lambda maps: maps.flip(2)),
    not_upsampled=_mapped(up=lambda maps, size: maps),
    nearest=_mapped(up=lambda maps, size: _upsampled(maps, size, "nearest")),
    corners_aligned=_mapped(
        up=lambda maps, size: F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
    ),
    bicubic=_mapped(up=lambda maps, size: _upsampled(maps, size, "bicubic")),
    along_the_sequence=_along_the_sequence,
    sides_exchanged=_mapped(up=lambda maps, size: _upsampled(maps, (size[1], size[0]))),
    one_factor=_by_factors(lambda grid, size: size[0] / grid[0]),
    whole_factors=_by_factors(lambda grid, size: (size[0] // grid[0], size[1] // grid[1])),
    probabilities_upsampled=_mapped(before=lambda tokens: tokens.softmax(dim=2)),
    probabilities_returned=_mapped(after=lambda maps: maps.softmax(dim=1)),
    classes_upsampled=_mapped(
        before=lambda tokens: F.one_hot(tokens.argmax(dim=2), tokens.shape[2]).to(tokens)
    ),
    best_class=_mapped(after=lambda maps: maps.argmax(dim=1)),
    channels_last_returned=_mapped(after=lambda maps: maps.permute(0, 2, 3, 1)),
    pixels_in_a_row=_mapped(after=lambda maps: maps.flatten(2)),
    cut_off=_mapped(after=lambda maps: maps.detach()),
)

# ---------------------------------------------------------------- intersection over union of each class


def _labelled(classes, *shape, seed=0, wrong=0.4):
    """(predicted, masks, number of classes): classes drawn at random, low ones more often, and a share of the pixels wrong."""
    g = generator(seed)
    true, other = (
        (torch.rand(shape, generator=g) * torch.rand(shape, generator=g) * classes).long() for _ in range(2)
    )
    return torch.where(torch.rand(shape, generator=g) < wrong, other, true), true, classes


def _with(pairs, classes):
    """The same, with each of `pairs` (from, to) exchanged: predicted, masks."""
    predicted, masks, K = classes
    for before, after in pairs[0]:
        predicted = torch.where(predicted == before, after, predicted)
    for before, after in pairs[1]:
        masks = torch.where(masks == before, after, masks)
    return predicted, masks, K


_pictured = torch.tensor([[[0, 0, 1], [1, 2, 2]]]), torch.tensor([[[0, 0, 0], [1, 1, 2]]])

class_iou = Exercise(
    lesson.class_iou,
    call(
        "an image of 2 x 3 pixels, 3 classes",
        *_pictured,
        3,
        hint="Class 0: two pixels are 0 in both, three are 0 in one or the other, so 2/3. Class 1: 1/3. Class 2: 1/2.",
    ),
    call("3 images of 4 x 5 pixels, 4 classes", *_labelled(4, 3, 4, 5)),
    call(
        "a class that is only predicted",
        *_with(([], [(2, 0)]), _labelled(4, 2, 6, 5, seed=1)),
        hint="It is in one of the two: the intersection is empty and the union is not. So it is 0.",
    ),
    call(
        "a class that is never predicted",
        *_with(([(2, 0)], []), _labelled(4, 2, 6, 5, seed=2)),
        hint="It is in one of the two: the intersection is empty and the union is not. So it is 0.",
    ),
    call(
        "a class that is in neither",
        *_with(([(2, 1)], [(2, 1)]), _labelled(4, 2, 6, 5, seed=3)),
        hint="0 / 0: nothing is known about this class. Its place holds float('nan').",
    ),
    call("the last two classes are in neither", *_labelled(4, 2, 5, 6, seed=4)[:2], 6),
    call("images that have not all classes", *_labelled(9, 4, 3, 3, seed=5)),
    call("as many images as classes, 3", *_labelled(3, 3, 4, 6, seed=6)),
    call("everything is right", *[_labelled(3, 2, 4, 4, seed=7)[1]] * 2, 3),
    call("a single image", *_labelled(5, 1, 6, 7, seed=8), kind="property"),
    call("the pixels in one long row", *_labelled(3, 40, seed=9), kind="property"),
    call("clips, (B, F, H, W)", *_labelled(3, 2, 3, 4, 5, seed=10), kind="property"),
    call(
        "masks as bytes (uint8), 20 classes",
        *(v.byte() for v in _labelled(20, 2, 16, 16, seed=11)[:2]),
        20,
        hint="A byte holds 0 to 255 and starts again at 0 beyond. `.long()` makes room before you compute with it.",
        kind="property",
    ),
    not_contiguous(*_labelled(4, 2, 4, 5, seed=12)),
    sizes=Sizes(
        lambda images, image_height, image_width, classes: call(
            "", *_labelled(classes, images, image_height, image_width)
        ),
        images=(5, 2, 3, 8),
        image_height=(12, 9, 16, 32, 4),
        image_width=(14, 8, 16, 32, 5),
        classes=(6, 7, 5, 4, 3, 2),
    ),
)


def _counts(predicted, masks, num_classes):
    """For each class: (how many pixels are so in both, how many predicted, how many true), each (K,)."""
    p, t = (F.one_hot(v.long().flatten(), num_classes) for v in (predicted, masks))
    return (p * t).sum(0), p.sum(0), t.sum(0)


def _agreement(predicted, masks, num_classes):
    """For each class: how many pixels are so in both or in neither, (K,)."""
    both, p, t = _counts(predicted, masks, num_classes)
    return masks.numel() - (p + t - 2 * both)


def _from_counts(share):
    """share: the three counts -> what is returned for each class."""
    return lambda predicted, masks, num_classes: share(*_counts(predicted, masks, num_classes))


def _then(change):
    """change: the right answer -> what is returned."""
    return lambda predicted, masks, num_classes: change(lesson.class_iou(predicted, masks, num_classes))


def _each_image(mean):
    """mean: the right answers of the images, (B, K) -> (K,)."""
    return lambda predicted, masks, num_classes: mean(
        torch.stack([lesson.class_iou(*pair, num_classes) for pair in zip(predicted, masks, strict=True)])
    )


def _in_python(predicted, masks, classes, absent=None):
    """The right answer as a list, computed with Python's own numbers. absent: what stands for 0 / 0; None: it raises."""
    found = []
    for c in classes:
        both = ((predicted == c) & (masks == c)).sum().item()
        either = ((predicted == c) | (masks == c)).sum().item()
        found.append(absent if absent is not None and not either else both / either)
    return found


def _in_foreground(predicted, masks, num_classes):
    seen = masks > 0
    return lesson.class_iou(predicted[seen], masks[seen], num_classes)


def _in_bytes(predicted, masks, num_classes):
    both = torch.bincount((masks * num_classes + predicted).flatten(), minlength=num_classes**2)
    pairs = both[: num_classes**2].view(num_classes, num_classes)
    return pairs.diagonal() / (pairs.sum(0) + pairs.sum(1) - pairs.diagonal())


class_iou.add_mistakes(
    recall=_from_counts(lambda both, p, t: both / t),
    precision=_from_counts(lambda both, p, t: both / p),
    dice=_from_counts(lambda both, p, t: 2 * both / (p + t)),
    both_counted_twice=_from_counts(lambda both, p, t: both / (p + t)),
    both_left_out=_from_counts(lambda both, p, t: both / (p + t - 2 * both)),
    neither_counted=lambda predicted, masks, num_classes: (
        _agreement(predicted, masks, num_classes)
        / _from_counts(lambda both, p, t: p + t - both)(predicted, masks, num_classes)
    ),
    accuracy_of_each_class=lambda predicted, masks, num_classes: (
        _agreement(predicted, masks, num_classes) / masks.numel()
    ),
    over_all_pixels=lambda predicted, masks, num_classes: (
        _counts(predicted, masks, num_classes)[0] / masks.numel()
    ),
    zero_for_absent=_then(lambda iou: iou.nan_to_num(0)),
    one_for_absent=_then(lambda iou: iou.nan_to_num(1)),
    only_where_true=_from_counts(lambda both, p, t: torch.where(t > 0, both / (p + t - both), torch.nan)),
    only_where_predicted=_from_counts(
        lambda both, p, t: torch.where(p > 0, both / (p + t - both), torch.nan)
    ),
    only_where_hit=_from_counts(lambda both, p, t: torch.where(both > 0, both / (p + t - both), torch.nan)),
    one_added=_from_counts(lambda both, p, t: (both + 1) / (p + t - both + 1)),
    one_added_below=_from_counts(lambda both, p, t: both / (p + t - both + 1)),
    absent_left_out=_then(lambda iou: iou[~iou.isnan()]),
    zero_by_zero=lambda predicted, masks, num_classes: torch.tensor(
        _in_python(predicted, masks, range(num_classes))
    ),
    image_by_image=_each_image(lambda ious: ious.nanmean(dim=0)),
    image_by_image_with_zeros=_each_image(lambda ious: ious.nan_to_num(0).mean(dim=0)),
    nan_of_an_image=_each_image(lambda ious: ious.mean(dim=0)),
    images_left_apart=_each_image(lambda ious: ious),
    mean_returned=_then(lambda iou: iou.nanmean()),
    share_of_pixels=lambda predicted, masks, num_classes: (predicted == masks).float().mean(),
    background_left_out=_then(lambda iou: iou[1:]),
    background_pixels_ignored=_in_foreground,
    classes_from_one=lambda predicted, masks, num_classes: torch.tensor(
        _in_python(predicted, masks, range(1, num_classes + 1), torch.nan)
    ),
    classes_that_occur=lambda predicted, masks, num_classes: torch.tensor(
        _in_python(predicted, masks, range(int(max(predicted.max(), masks.max())) + 1), torch.nan)
    ),
    classes_of_the_masks=lambda predicted, masks, num_classes: lesson.class_iou(
        predicted, masks, num_classes
    )[masks.long().unique()],
    in_percent=_then(lambda iou: 100 * iou),
    one_minus=_then(lambda iou: 1 - iou),
    in_bytes=_in_bytes,
    in_float64=_then(lambda iou: iou.double()),
)

# ---------------------------------------------------------------- a loss for rare classes


def _predicted(images, classes, height, width, seed=0):
    """Logits, and masks that they hit more often than not."""
    _, masks, _ = _labelled(classes, images, height, width, seed=seed)
    towards = F.one_hot(masks, classes).permute(0, 3, 1, 2)
    return drawn(images, classes, height, width, seed=seed) + 1.5 * towards, masks


_sure = (
    torch.tensor([[[[8.0, 8.0, 0.0, 8.0]], [[0.0, 0.0, 8.0, 0.0]]]]) * 4,
    torch.tensor([[[0, 0, 1, 1]]]),
)

dice_loss = Exercise(
    lesson.dice_loss,
    call(
        "4 pixels, 2 classes, a model that is sure: 0, 0, 1, 0 for 0, 0, 1, 1",
        *_sure,
        hint="Class 0: (2 · 2 + 1) / (3 + 2 + 1) = 5/6. Class 1: (2 · 1 + 1) / (1 + 2 + 1) = 3/4. One minus their mean is 5/24.",
    ),
    call("2 images of 4 x 5 pixels, 3 classes", *_predicted(2, 3, 4, 5)),
    call("3 images of 6 x 4 pixels, 5 classes", *_predicted(3, 5, 6, 4, seed=1)),
    call("as many classes as rows and columns, 4", *_predicted(2, 4, 4, 4, seed=2)),
    call("square images of 6 x 6 pixels, 3 classes", *_predicted(2, 3, 6, 6, seed=3)),
    call("as many images as classes, 3", *_predicted(3, 3, 4, 6, seed=4)),
    call("a single image", *_predicted(1, 3, 5, 4, seed=5)),
    call(
        "a class that is not in the masks",
        _predicted(2, 4, 3, 5, seed=6)[0],
        _predicted(2, 4, 3, 5, seed=6)[1].clamp(max=2),
        hint="It counts like the others: (0 + smooth) / (sum p + 0 + smooth).",
    ),
    call(
        "one pixel of a rare class among 63",
        drawn(1, 2, 8, 8, seed=7),
        (torch.arange(64) == 27).long().view(1, 8, 8),
        hint="Every class has its own fraction, and all fractions count the same.",
    ),
    call("smooth is 0", *_predicted(2, 3, 4, 5, seed=8), 0.0),
    call("smooth is 10", *_predicted(2, 3, 4, 5, seed=9), 10.0),
    call("a single class: there is nothing to choose", *_predicted(2, 1, 3, 4, seed=10), kind="property"),
    not_contiguous(*_predicted(2, 3, 4, 5, seed=11)),
    in_double(*_predicted(2, 3, 4, 5, seed=12)),
    passes_gradient(*_predicted(2, 3, 4, 5, seed=13)),
    sizes=Sizes(
        lambda images, classes, image_height, image_width: call(
            "", *_predicted(images, classes, image_height, image_width)
        ),
        images=(5, 4, 2, 8, 3),
        classes=(6, 3, 5, 4, 2),
        image_height=(12, 9, 16, 32, 8),
        image_width=(14, 7, 16, 32, 8),
    ),
)


def _one_hot(masks, classes):
    return F.one_hot(masks, classes).permute(0, 3, 1, 2)


def _fraction(p, t, smooth, axes=(0, 2, 3)):
    """The overlap of each class."""
    return (2 * (p * t).sum(axes) + smooth) / (p.sum(axes) + t.sum(axes) + smooth)


def _overlap(
    chances=lambda logits: logits.softmax(dim=1),
    wanted=_one_hot,
    fraction=_fraction,
    loss=lambda overlap: 1 - overlap.mean(),
):
    """The loss with one part changed.

    chances: logits -> p. wanted: masks, K -> t. fraction: p, t, smooth -> the overlap of each class. loss: this -> what is returned.
    """

    def wrong(logits, masks, smooth=1.0):
        return loss(fraction(chances(logits), wanted(masks, logits.shape[1]), smooth))

    return wrong


def _sums(p, t):
    """sum p t, sum p, sum t of each class."""
    return (p * t).sum((0, 2, 3)), p.sum((0, 2, 3)), t.sum((0, 2, 3))


def _of_sums(fraction):
    """fraction: sum p t, sum p, sum t, smooth -> the overlap."""
    return _overlap(fraction=lambda p, t, smooth: fraction(*_sums(p, t), smooth))


def _only_present(p, t, smooth):
    return _fraction(p, t, smooth)[t.sum((0, 2, 3)) > 0]


def _entropy_too(logits, masks, smooth=1.0):
    return F.cross_entropy(logits, masks) + lesson.dice_loss(logits, masks, smooth)


dice_loss.add_mistakes(
    dice_returned=_overlap(loss=lambda overlap: overlap.mean()),
    minus_for_one_minus=_overlap(loss=lambda overlap: -overlap.mean()),
    logits_for_chances=_overlap(chances=lambda logits: logits),
    sigmoid=_overlap(chances=torch.sigmoid),
    softmax_over_columns=_overlap(chances=lambda logits: logits.softmax(dim=-1)),
    softmax_over_rows=_overlap(chances=lambda logits: logits.softmax(dim=2)),
    softmax_over_images=_overlap(chances=lambda logits: logits.softmax(dim=0)),
    log_softmax=_overlap(chances=lambda logits: logits.log_softmax(dim=1)),
    best_class_alone=_overlap(
        chances=lambda logits: _one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits)
    ),
    one_hot_not_moved=_overlap(wanted=F.one_hot),
    one_hot_reshaped=_overlap(
        wanted=lambda masks, K: F.one_hot(masks, K).reshape(len(masks), K, *masks.shape[1:])
    ),
    one_hot_transposed=_overlap(wanted=lambda masks, K: F.one_hot(masks, K).transpose(1, 3)),
    not_doubled=_of_sums(lambda both, p, t, smooth: (both + smooth) / (p + t + smooth)),
    jaccard=_of_sums(lambda both, p, t, smooth: (both + smooth) / (p + t - both + smooth)),
    squared_below=_overlap(
        fraction=lambda p, t, smooth: (
            (2 * (p * t).sum((0, 2, 3)) + smooth) / (p.square().sum((0, 2, 3)) + t.sum((0, 2, 3)) + smooth)
        )
    ),
    not_smoothed=_of_sums(lambda both, p, t, smooth: 2 * both / (p + t)),
    smooth_only_above=_of_sums(lambda both, p, t, smooth: (2 * both + smooth) / (p + t)),
    smooth_only_below=_of_sums(lambda both, p, t, smooth: 2 * both / (p + t + smooth)),
    smooth_doubled=_of_sums(lambda both, p, t, smooth: 2 * (both + smooth) / (p + t + smooth)),
    smooth_added_afterwards=_of_sums(lambda both, p, t, smooth: 2 * both / (p + t) + smooth),
    always_one=_of_sums(lambda both, p, t, smooth: (2 * both + 1) / (p + t + 1)),
    means_for_sums=_of_sums(
        lambda both, p, t, smooth: (2 * both / t.sum() + smooth) / (p / t.sum() + t / t.sum() + smooth)
    ),
    image_by_image=_overlap(fraction=lambda p, t, smooth: _fraction(p, t, smooth, (2, 3))),
    image_by_image_at_once=_overlap(fraction=lambda p, t, smooth: _fraction(p, t, smooth, (1, 2, 3))),
    column_by_column=_overlap(fraction=lambda p, t, smooth: _fraction(p, t, smooth, (0, 2))),
    pixel_by_pixel=_overlap(fraction=lambda p, t, smooth: _fraction(p, t, smooth, 1)),
    all_classes_at_once=_overlap(fraction=lambda p, t, smooth: _fraction(p, t, smooth, (0, 1, 2, 3))),
    background_left_out=_overlap(fraction=lambda p, t, smooth: _fraction(p, t, smooth)[1:]),
    absent_classes_left_out=_overlap(fraction=_only_present),
    each_class=_overlap(loss=lambda overlap: 1 - overlap),
    summed=_overlap(loss=lambda overlap: (1 - overlap).sum()),
    logarithm=_overlap(loss=lambda overlap: -overlap.log().mean()),
    cross_entropy=lambda logits, masks, smooth=1.0: F.cross_entropy(logits, masks),
    with_cross_entropy=_entropy_too,
    cut_off=_overlap(loss=lambda overlap: (1 - overlap.mean()).detach()),
    a_number=_overlap(loss=lambda overlap: (1 - overlap.mean()).item()),
)
