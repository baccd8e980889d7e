"""Lesson 11, detection: right answers written in other ways."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import nn
from torchvision import ops

from alternatives import alternative
from vit_edu.models import vit

# ---------------------------------------------------------------- CrossAttention


@alternative("CrossAttention")
class ByHand(nn.Module):
    def __init__(self, dim, num_heads=8):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x, memory):
        D = x.shape[-1]
        q = vit.split_heads(self.q(x), self.num_heads)
        kv = self.kv(memory)
        k, v = (vit.split_heads(part, self.num_heads) for part in (kv[..., :D], kv[..., D:]))
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
        return self.proj(vit.merge_heads(weights @ v))


@alternative("CrossAttention")
class LikeTimm(nn.Module):
    """Everything in one reshape, as timm has it in CaiT."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim * 2), nn.Linear(dim, dim)

    def forward(self, queries, image):
        (B, Q, D), N = queries.shape, image.shape[1]
        q = self.q(queries).reshape(B, Q, self.heads, D // self.heads).permute(0, 2, 1, 3)
        k, v = self.kv(image).reshape(B, N, 2, self.heads, D // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, Q, D))


@alternative("CrossAttention")
class FourLayers(nn.Module):
    """Keys and values have layers of their own, and other names."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x, memory):
        q, k, v = (
            rearrange(y, "b t (h d) -> b h t d", h=self.num_heads)
            for y in (self.q_proj(x), self.k_proj(memory), self.v_proj(memory))
        )
        scores = einsum(q, k, "b h i d, b h j d -> b h i j") * q.shape[-1] ** -0.5
        return self.out_proj(einsum(scores.softmax(-1), v, "b h i j, b h j d -> b i h d").flatten(2))


@alternative("CrossAttention")
class HeadByHead(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x, memory):
        parts = (self.q(x), *self.kv(memory).tensor_split(2, dim=-1))
        heads = zip(*(part.chunk(self.num_heads, dim=-1) for part in parts), strict=True)
        found = [(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ v for q, k, v in heads]
        return self.proj(torch.cat(found, dim=-1))


# ---------------------------------------------------------------- to_corners


@alternative("to_corners")
def in_two_halves(boxes):
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


@alternative("to_corners")
def by_a_matrix(boxes):
    half = torch.tensor([[1, 0, -0.5, 0], [0, 1, 0, -0.5], [1, 0, 0.5, 0], [0, 1, 0, 0.5]])
    return boxes @ half.to(boxes).T


@alternative("to_corners")
def written_into_place(boxes):
    corners = boxes.clone()
    corners[..., 0] = boxes[..., 0] - boxes[..., 2] * 0.5
    corners[..., 1] = boxes[..., 1] - boxes[..., 3] * 0.5
    corners[..., 2] = boxes[..., 0] + boxes[..., 2] * 0.5
    corners[..., 3] = boxes[..., 1] + boxes[..., 3] * 0.5
    return corners


@alternative("to_corners")
def of_torchvision(boxes):
    return ops.box_convert(boxes, in_fmt="cxcywh", out_fmt="xyxy")


@alternative("to_corners")
def size_added_to_the_corner(boxes):
    cx, cy, w, h = boxes.split(1, dim=-1)
    x, y = cx - w / 2, cy - h / 2
    return torch.cat((x, y, x + w, y + h), -1)


# ---------------------------------------------------------------- box_iou


@alternative("box_iou")
def number_by_number(boxes1, boxes2):
    """Written out, with a lower bound in place of a condition."""
    ax1, ay1, ax2, ay2 = boxes1[:, None].unbind(-1)  # (M, 1) each
    bx1, by1, bx2, by2 = boxes2[None].unbind(-1)  # (1, N) each
    width = (torch.min(ax2, bx2) - torch.max(ax1, bx1)).clamp(0)
    height = (torch.min(ay2, by2) - torch.max(ay1, by1)).clamp(0)
    both = width * height
    either = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both
    return both / either.clamp(min=1e-12)


@alternative("box_iou")
def of_torchvision_without_nan(boxes1, boxes2):
    return ops.box_iou(boxes1, boxes2).nan_to_num(0)


@alternative("box_iou")
def with_relu(boxes1, boxes2):
    M, N = len(boxes1), len(boxes2)
    a, b = boxes1.unsqueeze(1).expand(M, N, 4), boxes2.expand(M, N, 4)
    sides = F.relu(torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]))
    both = sides[..., 0] * sides[..., 1]
    either = ops.box_area(boxes1)[:, None] + ops.box_area(boxes2) - both
    return torch.where(either > 0, both / either.where(either > 0, torch.ones_like(either)), 0.0)


@alternative("box_iou")
def box_by_box(boxes1, boxes2):
    found = boxes1.new_zeros(len(boxes1), len(boxes2))
    for i, a in enumerate(boxes1):
        for j, b in enumerate(boxes2):
            width, height = (
                torch.min(a[2], b[2]) - torch.max(a[0], b[0]),
                torch.min(a[3], b[3]) - torch.max(a[1], b[1]),
            )
            if width > 0 and height > 0:
                both = width * height
                either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
                found[i, j] = both / either
    return found


@alternative("box_iou")
def sides_by_inclusion(boxes1, boxes2):
    """What two sides share is the sum of both, minus the length that they cover from end to end."""
    a, b = boxes1[:, None], boxes2[None]
    sizes = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    spans = torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])
    both = torch.clamp(sizes[0] + sizes[1] - spans, min=0).prod(-1)
    either = sizes[0].prod(-1) + sizes[1].prod(-1) - both
    return both / (either + (either == 0))


# ---------------------------------------------------------------- generalized_box_iou


@alternative("generalized_box_iou")
def written_out(boxes1, boxes2):
    ax1, ay1, ax2, ay2 = (boxes1[:, i, None] for i in range(4))
    bx1, by1, bx2, by2 = (boxes2[None, :, i] for i in range(4))
    width = (torch.min(ax2, bx2) - torch.max(ax1, bx1)).clamp(min=0)
    height = (torch.min(ay2, by2) - torch.max(ay1, by1)).clamp(min=0)
    hull = (torch.max(ax2, bx2) - torch.min(ax1, bx1)) * (torch.max(ay2, by2) - torch.min(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - width * height
    return width * height / union.clamp(min=1e-12) - (hull - union) / hull.clamp(min=1e-12)


@alternative("generalized_box_iou")
def of_torchvision_and_the_flat(boxes1, boxes2):
    """torchvision's, and for what has no area the share that is left."""
    hull = (
        torch.max(boxes1[:, None, 2:], boxes2[:, 2:]) - torch.min(boxes1[:, None, :2], boxes2[:, :2])
    ).prod(-1)
    found = ops.generalized_box_iou(boxes1, boxes2)
    return torch.where(found.isnan(), torch.where(hull > 0, -1.0, 0.0).to(found), found)


@alternative("generalized_box_iou")
def from_the_iou(boxes1, boxes2):
    """The union from the areas and the IoU: areas = union + shared = union * (1 + IoU)."""
    iou = number_by_number(boxes1, boxes2)
    union = (ops.box_area(boxes1)[:, None] + ops.box_area(boxes2)) / (1 + iou)
    low, high = torch.minimum(boxes1[:, None], boxes2), torch.maximum(boxes1[:, None], boxes2)
    hull = (high[..., 2:] - low[..., :2]).prod(-1)
    return iou - torch.where(hull > 0, 1 - union / hull.clamp(min=1e-12), torch.zeros_like(hull))


@alternative("generalized_box_iou")
def row_by_row(boxes1, boxes2):
    rows = []
    for box in boxes1:
        both = (torch.minimum(box[2:], boxes2[:, 2:]) - torch.maximum(box[:2], boxes2[:, :2])).relu().prod(1)
        hull = (torch.maximum(box[2:], boxes2[:, 2:]) - torch.minimum(box[:2], boxes2[:, :2])).prod(1)
        union = (box[2:] - box[:2]).prod() + (boxes2[:, 2:] - boxes2[:, :2]).prod(1) - both
        rows.append(both / (union + (union == 0)) - (hull - union) / (hull + (hull == 0)))
    return torch.stack(rows) if rows else boxes1.new_zeros(0, len(boxes2))


# ---------------------------------------------------------------- matching_cost


def _giou(boxes, target_boxes):
    return ops.generalized_box_iou(
        ops.box_convert(boxes, "cxcywh", "xyxy"), ops.box_convert(target_boxes, "cxcywh", "xyxy")
    )


@alternative("matching_cost")
@torch.no_grad()
def like_detr(logits, boxes, labels, target_boxes):
    cost_class = -logits.softmax(-1)[:, labels]
    cost_bbox = torch.cdist(boxes, target_boxes, p=1)
    return 5 * cost_bbox + 1 * cost_class + 2 * -_giou(boxes, target_boxes)


@alternative("matching_cost")
def by_one_hot(logits, boxes, labels, target_boxes):
    named = F.softmax(logits, dim=1) @ F.one_hot(labels, logits.shape[1]).to(logits).T
    apart = sum((boxes[:, i, None] - target_boxes[None, :, i]).abs() for i in range(4))
    return apart * 5 - named - _giou(boxes, target_boxes) * 2


@alternative("matching_cost")
def object_by_object(logits, boxes, labels, target_boxes):
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    cost = logits.new_zeros(len(logits), len(labels))
    for j, label in enumerate(labels.tolist()):
        target = target_boxes[j : j + 1]
        cost[:, j] = 5 * (boxes - target).abs().sum(1) - 2 * _giou(boxes, target)[:, 0]
        cost[:, j] -= probabilities[:, label]
    return cost


@alternative("matching_cost")
def with_gather(logits, boxes, labels, target_boxes):
    chosen = logits.log_softmax(-1).gather(1, labels.expand(len(logits), -1)).exp()
    distance = F.l1_loss(
        boxes[:, None].expand(-1, len(labels), -1), target_boxes.expand(len(boxes), -1, -1), reduction="none"
    )
    return (distance.sum(2) * 5).sub(chosen).sub(_giou(boxes, target_boxes), alpha=2)


# ---------------------------------------------------------------- set_loss


@alternative("set_loss")
def query_by_query(logits, boxes, labels, target_boxes, match, no_object=0.1):
    naming, weights, terms, objects = 0.0, 0.0, 0.0, 0
    for b in range(len(logits)):
        answers = {match[b, j].item(): j for j in range(labels.shape[1]) if labels[b, j] >= 0}
        for q, chances in enumerate(logits[b].log_softmax(-1)):
            j = answers.get(q)
            weight = no_object if j is None else 1.0
            naming = naming - weight * chances[-1 if j is None else labels[b, j]]
            weights += weight
            if j is not None:
                box, target = boxes[b, q : q + 1], target_boxes[b, j : j + 1]
                terms = terms + 5 * (box - target).abs().sum() + 2 * (1 - _giou(box, target)[0, 0])
                objects += 1
    return naming / weights + terms / max(objects, 1)


@alternative("set_loss")
def with_gather_and_a_mask(logits, boxes, labels, target_boxes, match, no_object=0.1):
    """Unused rows are computed as well, and count for nothing."""
    real, K = labels != -1, logits.shape[2] - 1
    # One place more, where the unused rows are written
    wanted = torch.full((len(logits), logits.shape[1] + 1), K)
    wanted.scatter_(1, match.where(real, torch.tensor(logits.shape[1])), labels)
    weight = logits.new_tensor([1.0] * K + [no_object])
    naming = F.cross_entropy(logits.transpose(1, 2), wanted[:, :-1], weight)
    found = boxes.gather(1, match[..., None].expand(-1, -1, 4))
    apart = (found - target_boxes).abs().sum(-1)
    pairs = [_giou(f, t).diagonal() for f, t in zip(found, target_boxes, strict=True)]
    terms = (5 * apart + 2 * (1 - torch.stack(pairs))).where(real, torch.tensor(0.0).to(apart))
    return naming + terms.sum() / real.sum().clamp(min=1)


@alternative("set_loss")
def image_after_image(logits, boxes, labels, target_boxes, match, no_object=0.1):
    K = logits.shape[-1] - 1
    wanted, distance, overlap = [], boxes.sum() * 0, boxes.sum() * 0
    for label, found, target, queries in zip(labels, boxes, target_boxes, match, strict=True):
        real = label >= 0
        classes = torch.full((len(found),), K)
        classes[queries[real]] = label[real]
        wanted.append(classes)
        pairs = found[queries[real]], target[real]
        distance = distance + F.l1_loss(*pairs, reduction="sum")
        corners = (ops.box_convert(p, "cxcywh", "xyxy") for p in pairs)
        overlap = overlap + ops.generalized_box_iou_loss(*corners, reduction="sum")
    weight = torch.cat([logits.new_ones(K), logits.new_tensor([no_object])])
    naming = F.cross_entropy(logits.reshape(-1, K + 1), torch.cat(wanted), weight=weight)
    count = (labels >= 0).sum().item()
    return naming + 5 * distance / max(1, count) + 2 * overlap / max(1, count)


@alternative("set_loss")
def with_weights_of_queries(logits, boxes, labels, target_boxes, match, no_object=0.1):
    """The weighted mean by hand."""
    B, Q, C = logits.shape
    wanted = torch.full([B, Q], C - 1)
    image, row = torch.where(labels >= 0)
    query = match[image, row]
    wanted[image, query] = labels[image, row]
    weights = torch.where(wanted == C - 1, no_object, 1.0).to(logits)
    each = -logits.log_softmax(-1).gather(2, wanted.unsqueeze(2)).squeeze(2)
    loss = (weights * each).sum() / weights.sum()
    if len(image):
        found, target = boxes[image, query], target_boxes[image, row]
        loss = loss + 5 * (found - target).abs().sum(1).mean()
        loss = loss + 2 * (1 - torch.diag(_giou(found, target))).mean()
    return loss


# ---------------------------------------------------------------- average_precision


@alternative("average_precision")
def in_plain_python(scores, hits, num_objects):
    if not num_objects:
        return math.nan
    order = sorted(range(len(scores)), key=lambda i: -scores[i].item())
    points, right = [], 0
    for n, i in enumerate(order, start=1):
        right += bool(hits[i])
        points.append((right / num_objects, right / n))
    best = [max((p for r, p in points if r >= level / 100), default=0) for level in range(101)]
    return sum(best) / 101


@alternative("average_precision")
def as_coco_has_it(scores, hits, num_objects):
    """The steps of pycocotools, in NumPy."""
    if num_objects == 0:
        return float("nan")
    order = np.argsort(-scores.numpy(), kind="mergesort")
    tp = np.cumsum(hits.numpy()[order]).astype(float)
    fp = np.cumsum(~hits.numpy()[order]).astype(float)
    recall, precision = tp / num_objects, tp / (fp + tp + np.spacing(1))
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    q = np.zeros(101)
    for at, index in enumerate(np.searchsorted(recall, np.linspace(0, 1, 101), side="left")):
        if index < len(precision):
            q[at] = precision[index]
    return q.mean()


@alternative("average_precision")
def by_a_table(scores, hits, num_objects):
    """(101, n): which box reaches which recall. The best precision among them, or 0."""
    if num_objects == 0:
        return torch.nan
    hits = hits[torch.sort(scores, descending=True, stable=True).indices]
    right = hits.float().cumsum(0)
    precision = right / (1 + torch.arange(len(hits)))
    reached = right / num_objects >= torch.linspace(0, 1, 101)[:, None]
    table = F.pad(torch.where(reached, precision, 0.0), (0, 1))
    return table.amax(dim=1).mean().item()


@alternative("average_precision")
def stretch_by_stretch(scores, hits, num_objects):
    """How many of the 101 recalls lie between one hit and the next, times the best precision from there on."""
    if num_objects < 1:
        return float("nan")
    order = torch.argsort(scores, descending=True, stable=True)
    ranks = (hits[order].nonzero().flatten() + 1).tolist()
    total, best = 0.0, 0.0
    for found in range(len(ranks), 0, -1):
        best = max(best, found / ranks[found - 1])
        upto, before = 100 * found // num_objects, 100 * (found - 1) // num_objects
        total += best * (upto - before + (found == 1))
    return total / 101
