"""Objects in boxes: formats, overlap, which query answers for which object, and how good a detector is (lesson 11).

Letters in shapes: B images in the batch, K classes, Q queries (whatever proposes a box: a learned query or a patch), M objects.
Boxes are (..., 4): "corners" are x1, y1, x2, y2, the left upper and the right lower corner; "centres" are the middle of the box,
its width and its height, cx, cy, w, h. x points to the right and y down. The functions take any unit, which must be the same
for all boxes; `matching_cost` and `set_loss` want shares of the image's sides, 0..1.
"""

import torch
import torch.nn.functional as F

UNUSED = -1  # in labels: this row holds no object


def to_corners(boxes):
    """From cx, cy, w, h to x1, y1, x2, y2. (..., 4) -> (..., 4)."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)


def to_centres(boxes):
    """From x1, y1, x2, y2 to cx, cy, w, h; the inverse of `to_corners`. (..., 4) -> (..., 4)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=-1)


def _area(boxes):
    """(..., 4) corners -> (...,)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _common(boxes1, boxes2):
    """The area that each pair has in common, (..., M, N)."""
    left_top = torch.maximum(boxes1[..., :, None, :2], boxes2[..., None, :, :2])  # (..., M, N, 2)
    right_bottom = torch.minimum(boxes1[..., :, None, 2:], boxes2[..., None, :, 2:])  # (..., M, N, 2)
    return (right_bottom - left_top).clamp(min=0).prod(dim=-1)  # no overlap is 0, not negative


def _share(part, whole):
    """part / whole, and 0 where the whole is 0."""
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), 0)


def box_iou(boxes1, boxes2):
    """Intersection over union of every box of the one with every box of the other.

    boxes1, boxes2: corners, (M, 4) and (N, 4), or both with the same axes in front. Returns (M, N), 0..1. Two boxes without area
    have 0. Same as `torchvision.ops.box_iou`, which gives NaN there.
    """
    both = _common(boxes1, boxes2)  # (..., M, N)
    either = _area(boxes1)[..., :, None] + _area(boxes2)[..., None, :] - both  # (..., M, N)
    return _share(both, either)


def generalized_box_iou(boxes1, boxes2):
    """IoU, minus the share of the hull that neither box covers: the farther apart two boxes are, the closer to -1.

    boxes1, boxes2: corners, (M, 4) and (N, 4), or both with the same axes in front. The hull is the smallest box around the
    two. Returns (M, N), -1..1. Without an area, shares are 0. Same as `torchvision.ops.generalized_box_iou`.
    Source: Rezatofighi et al. 2019, arXiv:1902.09630, algorithm 1.
    """
    both = _common(boxes1, boxes2)  # (..., M, N)
    either = _area(boxes1)[..., :, None] + _area(boxes2)[..., None, :] - both  # (..., M, N)
    left_top = torch.minimum(boxes1[..., :, None, :2], boxes2[..., None, :, :2])  # (..., M, N, 2)
    right_bottom = torch.maximum(boxes1[..., :, None, 2:], boxes2[..., None, :, 2:])  # (..., M, N, 2)
    hull = (right_bottom - left_top).prod(dim=-1)  # (..., M, N)
    return _share(both, either) - _share(hull - either, hull)


# ---------------------------------------------------------------- a set as the answer (DETR)


def matching_cost(logits, boxes, labels, target_boxes):
    """How little each query suits each object (DETR, section 3.1).

    logits: (Q, K + 1), the last class is "no object". boxes: (Q, 4), centres, 0..1. labels: (M,), whole numbers below K.
    target_boxes: (M, 4), centres, 0..1. Or all with the same axes in front; a row that is UNUSED has any cost.
    Returns (Q, M): minus the probability of the object's class, plus 5 times the sum of the absolute differences of the four
    numbers of the boxes, minus 2 times their generalised IoU. Source: Carion et al. 2020, arXiv:2005.12872.
    """
    probability = logits.softmax(dim=-1)  # (..., Q, K + 1)
    named = labels.clamp(min=0)[..., None, :].expand(*logits.shape[:-1], -1)  # (..., Q, M)
    chosen = probability.gather(-1, named)  # (..., Q, M)
    apart = (boxes[..., :, None, :] - target_boxes[..., None, :, :]).abs().sum(dim=-1)  # (..., Q, M)
    overlap = generalized_box_iou(to_corners(boxes), to_corners(target_boxes))  # (..., Q, M)
    return 5 * apart - chosen - 2 * overlap


def match_queries(cost):
    """The query that answers for each object, such that the sum of their costs is the smallest: the Hungarian method.

    cost: (Q, M), at least as many queries as objects. Returns (M,), int64, no two alike.
    Raises ValueError for more objects than queries.
    """
    from scipy.optimize import linear_sum_assignment  # imported only here, because it takes a while

    if cost.shape[0] < cost.shape[1]:
        raise ValueError(
            f"{cost.shape[0]} queries cannot answer for {cost.shape[1]} objects. Build the model with more queries."
        )
    _, queries = linear_sum_assignment(cost.detach().T.cpu().numpy())  # the objects are 0, 1, 2, ...
    return torch.as_tensor(queries, device=cost.device)


@torch.no_grad()
def match_batch(logits, boxes, labels, target_boxes):
    """`match_queries` for each image of a batch. (B, Q, K + 1), (B, Q, 4), (B, M), (B, M, 4) -> (B, M), 0 in UNUSED rows."""
    cost = matching_cost(logits.float(), boxes.float(), labels, target_boxes).cpu()  # (B, Q, M)
    match = torch.zeros_like(labels, device="cpu")
    for image, here in enumerate((labels != UNUSED).cpu()):
        match[image, here] = match_queries(cost[image][:, here])
    return match.to(labels.device)


def match_places(labels, target_boxes, grid):
    """The patch that holds the centre of each object. (B, M), (B, M, 4) centres, 0..1, (rows, cols) -> (B, M), int64.

    UNUSED rows get 0. This is a fixed assignment, as detectors with a head on every place have it, in their simplest form. Where
    two objects have their centre in the same patch, they share it, and `set_loss` keeps the class of one.
    """
    rows, cols = grid
    cx, cy = target_boxes[..., 0], target_boxes[..., 1]
    row, col = (cy * rows).long().clamp(0, rows - 1), (cx * cols).long().clamp(0, cols - 1)
    return (row * cols + col).where(labels != UNUSED, 0)


def set_loss(logits, boxes, labels, target_boxes, match, no_object=0.1):
    """How far the answers of all queries are from a set of objects (DETR, section 3.1, equation 2).

    logits: (B, Q, K + 1), the last class is "no object". boxes: (B, Q, 4), centres, 0..1. labels: (B, M), UNUSED (-1) where
    there is no object. target_boxes: (B, M, 4), centres, 0..1. match: (B, M), the query that answers for each object; what
    stands in UNUSED rows does not count. no_object: the weight of queries that should find nothing.
    Returns a scalar, the sum of: the cross-entropy of all queries, as a weighted mean; and for the queries that answer for an
    object, 5 times the absolute differences of the boxes' four numbers and 2 times (1 - generalised IoU), summed up and divided by the
    number of objects in the batch (at least 1).
    """
    nothing = logits.shape[-1] - 1  # K
    image, row = (labels != UNUSED).nonzero(as_tuple=True)  # (objects,), (objects,)
    query = match[image, row]  # (objects,)
    wanted = torch.full(logits.shape[:2], nothing, device=logits.device)  # (B, Q)
    wanted[image, query] = labels[image, row]
    weight = torch.ones(nothing + 1, dtype=logits.dtype, device=logits.device)
    weight[nothing] = no_object
    naming = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight)
    found, target = boxes[image, query], target_boxes[image, row]  # (objects, 4), (objects, 4)
    apart = (found - target).abs().sum()
    overlap = generalized_box_iou(to_corners(found)[:, None], to_corners(target)[:, None])[
        :, 0, 0
    ]  # pair by pair
    return naming + (5 * apart + 2 * (1 - overlap).sum()) / max(1, len(row))


# ---------------------------------------------------------------- how good is a detector?


def detections(logits, boxes, size, nms=None):
    """What a model has found in each image: a list of dicts with boxes (n, 4), labels (n,) and scores (n,), best first.

    logits: (B, Q, K + 1). boxes: (B, Q, 4), centres, 0..1. size: (H, W) of the image in pixels. The label of a query is its
    likeliest class, "no object" left out, and the score is the probability of that. Returned boxes are corners, in pixels, cut off at
    the border. nms: non-maximum suppression; of two boxes of one class whose IoU is above this, only the better stays. None keeps
    all. No score is too low to be in the list.
    """
    H, W = size
    limits = torch.tensor([W, H, W, H], dtype=boxes.dtype, device=boxes.device)
    scores, labels = logits.softmax(dim=-1)[..., :-1].max(dim=-1)  # (B, Q), (B, Q)
    corners = (to_corners(boxes).clamp(0, 1) * limits).float()  # (B, Q, 4)
    found = []
    for image in range(len(boxes)):
        order = scores[image].argsort(descending=True, stable=True)
        if nms is not None:
            from torchvision.ops import batched_nms  # imported only here, because it takes a while

            order = batched_nms(corners[image], scores[image].float(), labels[image], nms)
        found.append(
            {"boxes": corners[image, order], "labels": labels[image, order], "scores": scores[image, order]}
        )
    return found


def hits_of(boxes, scores, target_boxes, threshold=0.5):
    """Which boxes of one image and one class are right: each object is found once, by the best box that overlaps it enough.

    boxes: (n, 4), corners. scores: (n,). target_boxes: (M, 4), corners. threshold: the least IoU. Returns (n,), bool, in the
    order of the boxes. A box is compared with the objects that no better box has found, as in COCO's evaluation.
    """
    hits, free = torch.zeros(len(boxes), dtype=torch.bool), torch.ones(len(target_boxes), dtype=torch.bool)
    if not len(boxes) or not len(target_boxes):
        return hits
    overlap = box_iou(boxes, target_boxes).cpu()  # (n, M)
    for box in scores.argsort(descending=True, stable=True).tolist():
        best, which = overlap[box].where(free, -1).max(dim=0)
        if best >= threshold:
            hits[box], free[which] = True, False
    return hits


def average_precision(scores, hits, num_objects):
    """The area under the curve of precision against recall, as COCO reads it.

    scores: (n,), how sure the detector is of each box, all images together. hits: (n,), bool, whether the box is right.
    num_objects: how many objects there are. Boxes are taken from the highest score down, of equal ones the first first. After
    each, recall is the share of the objects that are found, and precision the share of the boxes that are right. The precision
    at a recall is the highest that is reached there or at any higher recall; the result is its mean over the recalls 0, 0.01, ..., 1,
    with 0 where no box reaches them. Returns a float, 0..1, and NaN if there are no objects.
    Source: Lin et al. 2014, arXiv:1405.0312, and its evaluation code; Everingham et al. 2010 took 11 recalls.
    """
    if num_objects == 0:
        return float("nan")
    hits = hits[scores.argsort(descending=True, stable=True)].double()  # (n,)
    right = hits.cumsum(dim=0)  # (n,)
    recall = right / num_objects  # (n,)
    precision = right / torch.arange(1, len(hits) + 1, device=hits.device)  # (n,)
    precision = (
        precision.flip(0).cummax(dim=0).values.flip(0) if len(hits) else precision
    )  # the best from here on
    wanted = torch.arange(101, dtype=torch.float64, device=hits.device) * 0.01  # rounded as in COCO's code
    first = torch.searchsorted(
        recall, wanted
    )  # (101,): the first box at which a recall is reached, n if none
    return F.pad(precision, (0, 1))[first].mean().item()


def mean_average_precision(found, wanted, num_classes, threshold=0.5):
    """`average_precision` of each class, (num_classes,) float32, NaN for a class without objects. Its nanmean is the mAP.

    found: dicts of `detections`, one for each image. wanted: for each image, a dict with boxes (M, 4), corners in the same unit, and
    labels (M,). threshold: the least IoU of a box that is right, 0.5 for "AP50". Raises ValueError for lists of different lengths.
    """
    if len(found) != len(wanted):
        raise ValueError(
            f"each image has a dict in both lists, but there are {len(found)} and {len(wanted)}."
        )
    result = []
    for label in range(num_classes):
        scores, hits, objects = [], [], 0
        for ours, theirs in zip(found, wanted, strict=True):
            mine, right = ours["labels"] == label, theirs["labels"] == label
            objects += int(right.sum())
            scores.append(ours["scores"][mine].cpu())
            hits.append(hits_of(ours["boxes"][mine], scores[-1], theirs["boxes"][right], threshold))
        result.append(
            average_precision(torch.cat(scores), torch.cat(hits), objects) if found else float("nan")
        )
    return torch.tensor(result)
