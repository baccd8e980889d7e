"""Classes in words: what a CLIP or SigLIP makes of a picture, compared with what its text tower made of sentences."""

import torch
import torch.nn.functional as F

from vit_edu.pretrained.names import WeightsError


def similarities(features, texts):
    """How well each picture fits each text: cosines, (B, K), between -1 and 1. The largest of a row names the class.

    features: (B, E), what the image tower returns, projection included. texts: (K, E), one vector for each class, from the
    text tower of the *same* pair, such as `model.encode_text` of OpenCLIP for "a photo of a cat". Several sentences for a class
    become one vector as the mean of their normalised vectors.
    For probabilities, CLIP multiplies by `logit_scale.exp()`, about 100, before the softmax; SigLIP also adds `logit_bias` and
    takes the sigmoid. Raises WeightsError if the two do not have the same width.
    Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.
    """
    texts = torch.as_tensor(texts, dtype=features.dtype, device=features.device)
    if features.ndim != 2 or texts.ndim != 2 or features.shape[1] != texts.shape[1]:
        raise WeightsError(
            f"expected features (B, E) and texts (K, E) of the same width, got {tuple(features.shape)} and {tuple(texts.shape)}. Both "
            "come from one pair of towers, and the image tower needs its projection (visual.proj, visual_projection.weight)."
        )
    return F.normalize(features, dim=1) @ F.normalize(texts, dim=1).T
