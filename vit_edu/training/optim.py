"""Optimisers: AdamW with decay where it belongs, Muon, several used as one, and a running average of the weights."""

import copy

import torch

from vit_edu.models.vit import block_ends
from vit_edu.training.steps import has_bf16

# Also where they belong to a part of a model. After the positions come Swin's, a detector's and a segmenter's
NO_DECAY = (
    *("cls_token", "mask_token", "pos_embed", "time_embed"),
    *("relative_position_bias_table", "query_embed", "cls_emb"),
)


def make_optimizer(model, recipe):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), with weight decay on matrices only.

    Biases, norms, class token, mask token and positions do not decay. With "muon", the matrices inside the model (`inner_matrices`) go
    to `Muon`. Raises ValueError if there are none.
    """
    inner = {id(value) for value in inner_matrices(model)} if recipe.optimizer == "muon" else set()
    if recipe.optimizer == "muon" and not inner:
        raise ValueError(
            f"a {type(model).__name__} has no matrices for Muon: give it a method `inner_matrices`, or choose adamw."
        )
    matrices, decay, rest = [], [], []
    for name, value in model.named_parameters():
        if id(value) in inner:
            matrices.append(value)
        elif value.ndim > 1 and name.rpartition(".")[2] not in NO_DECAY:
            decay.append(value)
        else:
            rest.append(value)
    groups = [
        {"params": decay, "weight_decay": recipe.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    device = next(model.parameters()).device
    on_cuda = device.type == "cuda"
    adamw = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=on_cuda)
    if not matrices:
        return adamw
    bf16 = on_cuda or (recipe.cpu_bf16 and has_bf16(device))
    muon = Muon(matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, bf16=bf16)
    return CombinedOptimizer(muon, adamw)


def inner_matrices(model):
    """The weights that Muon takes, according to the model's own `inner_matrices()`.

    A model without that method is taken for a ViT: these are then the matrices of its blocks and of its patch projection,
    by their usual names.
    """
    if hasattr(model, "inner_matrices"):
        return model.inner_matrices()
    inside = ("blocks.", "patch_embed.")
    return [value for name, value in model.named_parameters() if name.startswith(inside) and value.ndim > 1]


def branch_ends(model):
    """The weights that end a residual branch, according to the model's own `branch_ends()`.

    `Recipe.zero_init` starts them at zero. A model without that method is taken for a ViT: these are then the output
    projections of attention and MLP in every block. Raises ValueError if it has none.
    """
    if hasattr(model, "branch_ends"):
        return model.branch_ends()
    try:
        return block_ends(model.blocks)
    except AttributeError as error:
        raise ValueError(
            f"a {type(model).__name__} does not say which weights end its branches: give it a method `branch_ends`, or leave "
            "`zero_init` out of the recipe."
        ) from error


class Muon(torch.optim.Optimizer):
    """Muon: momentum, made orthogonal before it is applied (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    params: matrices; the weight of a convolution, (out, in, P, P), counts as one with in*P*P columns. bf16: whether they are
    made orthogonal in bf16, which is faster where the device has it and exact to about two digits.
    It computes what torch.optim.Muon does with adjust_lr_fn="match_rms_adamw", so that one learning rate suits both it and
    AdamW. Torch's version goes from matrix to matrix and takes no convolutions. Here all matrices of the same shape go
    together, which is faster because the blocks of a ViT are alike.
    """

    def __init__(self, params, lr, weight_decay=0.0, momentum=0.95, bf16=False):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.bf16 = bf16

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for value in group["params"]:
                if value.grad is not None:
                    shapes.setdefault(value.shape, []).append(value)
            for values in shapes.values():
                self._step_together(values, group["lr"], group["momentum"], group["weight_decay"])

    def _step_together(self, values, lr, momentum, weight_decay):
        """One step for matrices of the same shape."""
        for value in values:
            if not self.state[value]:
                self.state[value]["momentum_buffer"] = torch.zeros_like(value)
        grads = [value.grad for value in values]
        smooth = [self.state[value]["momentum_buffer"] for value in values]
        torch._foreach_lerp_(smooth, grads, 1 - momentum)
        update = torch.stack(torch._foreach_lerp(grads, smooth, momentum))  # Nesterov
        update = update.flatten(2)  # (n, rows, cols)
        update = orthogonalize(update.bfloat16() if self.bf16 else update).to(update.dtype)
        torch._foreach_mul_(values, 1 - lr * weight_decay)
        size = 0.2 * max(update.shape[1:]) ** 0.5  # so that entries have the usual size of AdamW's
        update = update.unflatten(2, values[0].shape[1:])
        if isinstance(lr, torch.Tensor):  # in a recorded step, see `steps.RecordedStep`
            update, lr = update * lr, 1.0
        torch._foreach_add_(values, list(update.unbind()), alpha=-lr * size)


def orthogonalize(matrices, steps=5):
    """Bring all singular values of matrices (n, rows, cols) near 1 and leave their singular vectors unchanged.

    Newton-Schulz: each step applies a x + b x^3 + c x^5 to the singular values, using nothing but matrix products. After
    five steps they lie roughly between 0.7 and 1.2.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        square = x @ x.mT  # (n, r, r), r the shorter side
        # -4.7750 square + 2.0315 square square
        square = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, square, x, beta=3.4445)  # 3.4445 x + square x
    return x.mT.contiguous() if tall else x


class CombinedOptimizer:
    """Several optimisers that are used as one."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers

    @property
    def param_groups(self):
        return [group for o in self.optimizers for group in o.param_groups]

    def zero_grad(self):
        for o in self.optimizers:
            o.zero_grad()

    def step(self):
        for o in self.optimizers:
            o.step()

    def state_dict(self):
        return {"optimizers": [o.state_dict() for o in self.optimizers]}

    def load_state_dict(self, state):
        for o, each in zip(self.optimizers, state["optimizers"], strict=True):
            o.load_state_dict(each)


class Average:
    """A running average of a model's weights (an exponential moving average). decay: the share of the old average that stays.

    In the first steps less of it stays, min(decay, (1 + n) / (10 + n)), so that the initial weights are soon forgotten.
    """

    def __init__(self, model, decay):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.steps = decay, 0
        self.values, self.buffers = list(self.model.parameters()), list(self.model.buffers())

    @torch.no_grad()
    def update(self, model):
        stays = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(self.values, list(model.parameters()), 1 - stays)
        if self.buffers:  # running statistics are averages already
            torch._foreach_copy_(self.buffers, list(model.buffers()))
