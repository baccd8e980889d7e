"""Pictures as viewers show them: turned upright, on a white background, with 8 bits per channel."""

import struct

import numpy as np

from vit_edu.data.sets import DataError

COLOURS = ("RGB", "RGBX", "CMYK", "YCbCr", "HSV")  # Pillow's modes that it converts to RGB as they are
TO_RGBA = {
    "P": "RGBA",
    "LA": "RGBA",
    "PA": "RGBA",
    "RGBa": "RGBA",
    "La": "LA",
}  # what may be transparent: the next mode
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def as_shown(picture):
    """A PIL image -> the image that a viewer shows, in mode "RGB", or "L" for one that is grey and has no transparency.

    The orientation that a camera notes is applied, transparent parts show a white background, and 16 bits become 8. Of
    several frames, the one that is open is taken; a file that was just opened shows its first. Raises DataError for modes
    whose values have no known scale, such as floats, and for LAB.
    """
    from PIL import Image

    of_16_bits = picture.mode in SIXTEEN_BITS or (picture.mode == "I" and picture.format in ("PNG", "PPM"))
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    picture = upright(picture)
    if of_16_bits:
        return _from_16_bits(picture, tags)
    while picture.mode in TO_RGBA:
        picture = picture.convert(TO_RGBA[picture.mode])
    if "transparency" in picture.info and picture.mode in ("1", "L", "RGB"):  # one colour stands for it
        picture = picture.convert("RGBA")
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    if picture.mode in ("1", "L"):
        return picture.convert("L")
    if picture.mode in COLOURS:
        return picture.convert("RGB")
    raise DataError(
        f"the picture has the mode {picture.mode!r}, which cannot be turned into colours here. Expected 8 or 16 bits for "
        "grey, or 8 for each colour. Save it as such a PNG or JPEG"
    )


def frames_left_out(picture):
    """How many frames or pages a PIL image has besides the first. A photo with a preview or a depth map beside it has none."""
    return 0 if picture.format == "MPO" else getattr(picture, "n_frames", 1) - 1


def upright(picture):
    """A PIL image, turned and mirrored as the camera noted. Its mode and its values stay the same."""
    from PIL import ImageOps

    picture.load()  # what it cannot decode is an error; what it cannot understand of the camera's notes is none
    try:
        return ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return picture


def _from_16_bits(picture, tags):
    """Grey values of up to 16 bits -> "L", with white where one value stands for transparency."""
    from PIL import Image

    bits = tags.get(258, 16)  # BitsPerSample of a TIFF: cameras and scanners use 12 and 14 as well
    top = 2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1
    values = np.asarray(picture).astype(np.float32)
    grey = np.rint(values * (255 / top)).clip(0, 255)
    if tags.get(262) == 0:  # PhotometricInterpretation of a TIFF: white is zero
        grey = 255 - grey
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8))
