"""From the first exercise to published weights in the learner's own model, in real kernels."""

import os

import pytest

jupyter_client = pytest.importorskip("jupyter_client")

ANSWERS = """
import math, torch, torch.nn as nn, torch.nn.functional as F
from einops import rearrange
from vit_edu import check
from vit_edu.models.vit import DropPath, PatchEmbed


def start(*shape, std=0.02):
    return nn.Parameter(std * torch.randn(shape))


@check.exercise
class Embeddings(nn.Module):
    def __init__(self, img_size, patch_size, in_chans, embed_dim, class_token=True):
        super(Embeddings, self).__init__()
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.pos_embed = start(1, self.patch_embed.num_patches + int(class_token), embed_dim)

    def forward(self, images):
        x = self.patch_embed(images)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.repeat(x.shape[0], 1, 1), x), 1)
        return self.pos_embed + x


@check.exercise
class Attention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        if dim % num_heads != 0:
            raise ValueError(f"{dim} / {num_heads} is not whole")
        self.h = num_heads
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = rearrange(self.qkv(x), "b t (s h d) -> s b h t d", s=3, h=self.h)
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
        return self.proj(rearrange(scores.softmax(-1) @ v, "b h t d -> b t (h d)"))


@check.exercise
class Mlp(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(in_features, hidden_features), nn.Linear(hidden_features, in_features)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


@check.exercise
class Block(nn.Module):
    def __init__(self, dim, num_heads, mlp_ratio=4.0, drop_path=0.0):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(dim, 1e-6)
        self.attn, self.mlp = Attention(dim, num_heads), Mlp(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        for norm, branch in ((self.norm1, self.attn), (self.norm2, self.mlp)):
            x = self.drop_path(branch(norm(x))) + x
        return x


@check.exercise
def make_blocks(dim, depth, num_heads, mlp_ratio=4.0, drop_path_rate=0.0):
    return nn.Sequential(
        *[Block(dim, num_heads, mlp_ratio, drop_path_rate * i / max(depth - 1, 1)) for i in range(depth)]
    )


@check.exercise
class ViT(Embeddings):
    def __init__(self, img_size, patch_size, in_chans, num_classes, embed_dim, depth, num_heads, global_pool="token"):
        super().__init__(img_size, patch_size, in_chans, embed_dim, global_pool == "token")
        self.blocks, self.norm = make_blocks(embed_dim, depth, num_heads), nn.LayerNorm(embed_dim, 1e-6)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, images):
        x = self.norm(self.blocks(super().forward(images)))
        return self.head(x.mean(1) if self.cls_token is None else x[:, 0])
"""

LATER = """
import torch, torch.nn.functional as F, torchvision
from vit_edu import data, mine, pretrained
from vit_edu.models import vit

names = ("Embeddings", "Attention", "Mlp", "Block", "make_blocks", "ViT")
print("whose:", {mine.answer(name).whose for name in names}, [mine.answer(name).remark for name in names])
torch.manual_seed(0)
model = mine.ViT(32, 8, 3, 10, embed_dim=16, depth=2, num_heads=2)
parts = type(model).__mro__[1], type(model.blocks[0]), type(model.blocks[0].attn), type(model.blocks[0].mlp)
print("made of their own:", parts == (mine.Embeddings, mine.Block, mine.Attention, mine.Mlp))

shapes = data.shapes(train=256, test=10)
optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
for _ in range(6):
    for x, y in data.batches(shapes.train, 64, shapes.mean, shapes.std, train=True):
        losses.append(F.cross_entropy(model(x), y))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
print("learns:", losses[-1].item() < losses[0].item())

theirs = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 64, num_classes=10).eval()
for value in theirs.parameters():
    torch.nn.init.normal_(value, std=0.2)
pretrained.convert(theirs.state_dict(), num_heads=2).load_into(model).eval()
x = torch.randn(4, 3, 32, 32)
print("difference:", (model(x) - theirs(x)).abs().max().item() / theirs(x).abs().max().item() < 1e-5)
"""


def run(cells, folder, person):
    """What a kernel of its own prints when it runs the cells. person: whether it could ask somebody a question."""
    manager = jupyter_client.KernelManager(kernel_name="python3")
    home = {"XDG_DATA_HOME": str(folder), "HOME": str(folder), "VIT_EDU_PROGRESS": "off"}
    environment = {k: v for k, v in os.environ.items() if k != "VIT_EDU_MINE"} | home
    manager.start_kernel(env=environment)
    client, printed = manager.client(), []
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        client.allow_stdin = person

        def listen(message):
            content = message["content"]
            printed.append(content.get("text", "") + "\n".join(content.get("traceback", ())))

        for cell in cells:
            reply = client.execute_interactive(cell, allow_stdin=person, output_hook=listen, timeout=120)
            assert reply["content"]["status"] == "ok", "".join(printed)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return "".join(printed)


@pytest.mark.skipif(os.name == "nt", reason="the user's data folder is set by other names there")
def test_a_model_of_ones_own_from_the_exercises_to_published_weights(tmp_path):
    run([ANSWERS], tmp_path, person=True)
    kept = sorted(p.name for p in tmp_path.rglob("lesson_*.py"))
    assert kept == ["lesson_02.py", "lesson_03.py", "lesson_04.py", "lesson_05.py"]
    printed = run([LATER], tmp_path, person=True)
    assert "whose: {'yours'}" in printed, printed
    assert "made of their own: True" in printed
    assert "learns: True" in printed
    assert "difference: True" in printed


@pytest.mark.skipif(os.name == "nt", reason="the user's data folder is set by other names there")
def test_a_notebook_that_a_program_runs_neither_keeps_nor_uses_answers(tmp_path):
    one = ANSWERS.split("@check.exercise\nclass Attention")[0]
    run([one], tmp_path, person=False)
    assert not list(tmp_path.rglob("lesson_*.py"))
