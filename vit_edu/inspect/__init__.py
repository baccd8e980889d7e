"""Looking inside a model: where its tokens look, what its embeddings hold, and whether its answers rest on what a map shows.

Models run in eval mode and are left as they were. Letters in shapes are those of `models.vit`; L is the number of blocks,
and grid is (rows, cols), in patches. Prefix tokens are those without a patch, in front of the patches: class token,
distillation token, registers.
"""

from vit_edu.inspect.attention import (
    attention_distance,
    attention_maps,
    attention_weights,
    grid_and_prefix,
    rollout,
    uniform_distance,
)
from vit_edu.inspect.belief import IMPORTANCE, deletion_curve, importance
from vit_edu.inspect.depth import cka, hidden_tokens, token_similarity
from vit_edu.inspect.embeddings import filters, position_similarity
from vit_edu.inspect.mixing import mixing_matrix, permutation_sensitivity
from vit_edu.inspect.running import eval_mode
from vit_edu.inspect.shifts import shift, shift_consistency, shuffle_patches

__all__ = [
    "IMPORTANCE",
    "attention_distance",
    "attention_maps",
    "attention_weights",
    "cka",
    "deletion_curve",
    "eval_mode",
    "filters",
    "grid_and_prefix",
    "hidden_tokens",
    "importance",
    "mixing_matrix",
    "permutation_sensitivity",
    "position_similarity",
    "rollout",
    "shift",
    "shift_consistency",
    "shuffle_patches",
    "token_similarity",
    "uniform_distance",
]
