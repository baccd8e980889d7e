"""Images to learn from: CIFAR-10, a folder of images, or shapes that are generated on the spot.

Your own images may have masks (`mask_folder`), boxes (`coco_folder`) or several frames (`clip_folder`) as well.

`load()` decides which, and says why. Everything becomes uint8 tensors that are small enough to be on any device as a
whole, so that making a batch is a single indexing operation and needs no worker processes. Besides its label, an image
may have further targets, such as a mask or boxes, which move with it when it is flipped or cropped.

Letters in shape comments: B images in the batch, N images in the set, F frames of a clip, C channels, H, W pixels.
"""

from vit_edu.data.annotated import clip_folder, coco_folder, mask_folder
from vit_edu.data.batching import batches, denormalize, normalize
from vit_edu.data.choice import choose, load
from vit_edu.data.cifar10 import download_problem
from vit_edu.data.drawing import shapes
from vit_edu.data.folder import check_folder, image_folder, pictures_in
from vit_edu.data.geometry import DIRECTIONS, flip_and_crop, random_crop, random_flip
from vit_edu.data.network import require_network
from vit_edu.data.outlines import SHAPES
from vit_edu.data.scenes import clips, opposite, scenes
from vit_edu.data.sets import Data, DataError, Split, pixel_statistics
from vit_edu.settings import cache_dir, fast  # where they once stood; notebooks of learners use them

__all__ = [
    "DIRECTIONS",
    "SHAPES",
    "Data",
    "DataError",
    "Split",
    "batches",
    "cache_dir",
    "check_folder",
    "choose",
    "clip_folder",
    "clips",
    "coco_folder",
    "denormalize",
    "download_problem",
    "fast",
    "flip_and_crop",
    "image_folder",
    "load",
    "mask_folder",
    "normalize",
    "opposite",
    "pictures_in",
    "pixel_statistics",
    "random_crop",
    "random_flip",
    "require_network",
    "scenes",
    "shapes",
]
