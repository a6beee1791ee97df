"""A picture of one digit, brought to the form of MNIST's images.

MNIST's form (LeCun et al. 1998, section III.A, and measured on the 60,000
training images): light strokes on a background of exactly 0, the digit's
longer side 20 pixels, its centre of mass at pixel (14, 14) of 28x28 to within
half a pixel, and a brightest pixel of 254 or 255.

Limits: one digit; no hard-edged shadow across it; and nothing, such as a ruled
line, may cross its strokes.
"""

import os
import warnings

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from mnist_jax.data.idx import SIDE
from mnist_jax.runtime import extras, files
from mnist_jax.runtime.errors import InputError

with extras.needed("train"):
  from PIL import Image, ImageOps

BOX = 20
CENTRE = 14  # index of the pixel the centre of mass is moved to

# Decoders that run no other program and are common for pictures.
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "TIFF", "WEBP", "PPM")

_PHONE_FORMATS = {
  **dict.fromkeys((b"avif", b"avis"), "AVIF"),
  **dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "HEIC"),
}

# Grey levels are fractions of the full range from black to white.
_DEPTHS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))
_WORKING_SIDE = 512  # larger pictures are averaged down to this first
_LEAST_CONTRAST = 0.06  # fainter strokes than this are taken for dirt
_NOISE_BAR = 5.0  # standard deviations of the background
_EDGE = 0.08  # of the strokes' brightness: where a digit ends
_GROUND_REACH = 0.25  # from the ground's level: what may still be ground
_GROUND_SIDE = 64  # pixels of the thinned-out picture it is fitted to
_THINNEST = 2.0  # pixels of MNIST: 3 % of its test images have thinner strokes
_SPECK = 0.02  # of the largest stroke's ink: what is not part of the digit

Grey = Float[np.ndarray, "height width"]  # 0 is black, 1 is white
Mask = Bool[np.ndarray, "height width"]


def read(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "28 28"]:
  """Reads a picture of one digit, of any size, as an image of MNIST's form.

  Colours, transparency, 16-bit samples, palettes and the camera's rotation
  mark are understood; of an animation the first frame is taken. Dark strokes
  on light and light strokes on dark both work.

  Raises:
    InputError: a file that cannot be read, is not a picture of a known format,
      damaged, larger than Pillow allows, or no digit found in it.
  """
  name = str(files.expanded(path))
  Image.init()
  known = [form for form in FORMATS if form in Image.OPEN]
  try:
    # Pillow only warns of too many pixels; here a warning is a refusal.
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      warnings.simplefilter("error", Image.DecompressionBombWarning)
      with Image.open(name, formats=known) as image:
        image.draft("RGB", (2 * _WORKING_SIDE, 2 * _WORKING_SIDE))  # JPEG
        image.load()
        picture = ImageOps.exif_transpose(image)
  except Image.UnidentifiedImageError:
    raise InputError(
      f"{name}: {_kind(name)}, expected one of {', '.join(FORMATS)}"
    ) from None
  except (Image.DecompressionBombWarning, Image.DecompressionBombError):
    raise InputError(
      f"{name}: too large, expected at most {Image.MAX_IMAGE_PIXELS:,} pixels"
    ) from None
  except Exception as error:  # decoders raise many kinds on damaged files
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    raise InputError(
      f"{name}: cannot be read ({reason or type(error).__name__}), expected a "
      "whole picture"
    ) from None
  try:
    return normalise(_to_grey(picture))
  except InputError as error:
    raise InputError(f"{name}: {error}") from None


def _kind(name: str) -> str:
  """What a file is that is of none of the formats."""
  with open(name, "rb") as file:
    start = file.read(12)
  if start[4:8] == b"ftyp" and start[8:] in _PHONE_FORMATS:
    return f"a picture in {_PHONE_FORMATS[start[8:]]}, which is not read"
  return "not a picture"


def normalise(grey: Grey) -> UInt8[np.ndarray, "28 28"]:
  """Brings grey levels, which are finite, to MNIST's form.

  Raises:
    InputError: no digit found; the message does not know the file's name.
  """
  ink = _ink(grey)
  ink = _cut(_thicken(ink, _strokes(ink)))
  if max(ink.shape) < 3:
    raise InputError("no digit found, only a dot; expected strokes")
  return _centre(_fit(ink))


def _cut(ink: Grey | Mask) -> Shaped[np.ndarray, "h w"]:
  """Without the rows and columns around that are 0."""
  return ink[scipy.ndimage.find_objects((ink > 0).astype(int))[0]]


def _to_grey(image: Image.Image) -> Grey:
  """The picture as grey levels 0 to 1, at most _WORKING_SIDE on a side."""
  if image.mode.startswith(("I", "F")):
    deep = Image.fromarray(_deep_levels(image).astype(np.float32))
    return np.asarray(_average_down(deep), np.float64)
  if image.has_transparency_data:
    return _flatten(image.convert("RGBA"))
  if image.mode not in ("L", "RGB"):
    image = image.convert("L" if image.mode == "1" else "RGB")
  levels = np.asarray(_average_down(image).convert("L"), np.float64)
  return levels / 255


def _deep_levels(image: Image.Image) -> Grey:
  """Samples of 16 or 32 bits on the scale 0 to 1."""
  levels = np.asarray(image, np.float64)
  if not np.isfinite(levels).all():
    raise InputError("samples that are not finite, expected grey levels")
  levels = levels - min(levels.min(), 0)
  top = levels.max()
  if image.mode == "F":
    # Resizing goes past white. What is dark on each scale has its own.
    full = next((f for f in (1, 255, 65535) if top <= 1.25 * f), top)
    full = top if 1 < top < full / 8 else full
  else:  # cameras leave the high bits empty
    full = next((f for f in _DEPTHS if top <= f), top)
  return levels / max(full, top)


def _flatten(image: Image.Image) -> Grey:
  """Puts a transparent picture on the ground that shows its strokes.

  What is visible and both light and dark brings its own ground, the commoner
  level; what is all of one level is strokes alone, on the opposite.
  """
  image = _average_down(image.convert("RGBa")).convert("RGBA")
  alpha = np.asarray(image.getchannel("A"), np.float64) / 255
  levels = np.asarray(image.convert("RGB").convert("L"), np.float64) / 255
  if not alpha.any():
    return np.zeros_like(levels)
  visible = levels[alpha > 0.5 * alpha.max()]
  median = np.median(visible)
  own_ground = np.ptp(np.percentile(visible, (2, 98))) > 0.3
  light = median > 0.5 if own_ground else median <= 0.5
  return alpha * levels + (1 - alpha) * float(light)


def _average_down(image: Image.Image) -> Image.Image:
  factor = -(-max(image.size) // _WORKING_SIDE)
  return image.reduce(factor) if factor > 1 else image


def _ink(grey: Grey) -> Grey:
  """How much each pixel is stroke: 0 for the background, 1 for full ink."""
  ground = _ground(grey)
  residual = grey - ground
  near = np.abs(residual) < _GROUND_REACH
  if not near.any():
    raise InputError("no digit found, no background either; expected strokes")
  noise = 1.4826 * np.median(np.abs(residual[near]))
  bar = max(_NOISE_BAR * noise, _LEAST_CONTRAST)
  light = np.sum(residual[residual > bar])
  dark = -np.sum(residual[residual < -bar])
  if light == dark == 0:
    raise InputError("no digit found, the picture is blank; expected strokes")
  # Strokes take a share of the light that falls on the ground, so where that
  # is uneven their depth is too; the division makes them equal again.
  if light >= dark:
    room, ink = 1 - ground, np.maximum(residual, 0)
  else:
    room, ink = ground, np.maximum(-residual, 0)
  room = np.maximum(room / room.max(), 0.2)
  stroke = ink > bar
  # Noise is cut off and not subtracted, so that clean edges keep their greys.
  ink[ink <= min(_NOISE_BAR * noise, 0.5 * np.percentile(ink[stroke], 90))] = 0
  ink = ink / room
  return np.minimum(ink / np.percentile(ink[stroke], 90), 1)


def _frame(shape: tuple[int, ...]) -> Mask:
  """True along the border, where a picture of a digit is mostly ground."""
  frame = np.ones(shape, bool)
  border = max(1, min(shape) // 20)
  frame[border:-border, border:-border] = False
  return frame


def _ground(grey: Grey) -> Grey:
  """The background's grey level: a quadratic surface, strokes left out.

  A surface follows uneven light and soft shadows. It is fitted from three
  starts, and the one that most pixels are near wins, where the border counts
  as much as all the rest.
  """
  stride = max(1, max(grey.shape) // _GROUND_SIDE)
  sample = grey[::stride, ::stride]
  y, x = np.meshgrid(
    *(np.linspace(-1, 1, n) for n in grey.shape), indexing="ij"
  )
  full = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
  terms = full[::stride, ::stride]
  frame = _frame(sample.shape)
  border, *_ = np.linalg.lstsq(terms[frame], sample[frame], rcond=None)
  starts = [
    np.full_like(sample, np.median(sample[frame])),
    np.full_like(sample, _commonest_level(sample, frame)),
    terms @ border,
  ]
  best, most = np.zeros(6), -1.0
  for start in starts:
    spread = float(np.median(np.abs(sample - start)[frame]))
    solution = _fit_surface(sample, terms, start, _reach(spread))
    near = np.abs(sample - terms @ solution) < 0.05
    if near.mean() + near[frame].mean() > most:
      best, most = solution, near.mean() + near[frame].mean()
  return full @ best


def _commonest_level(grey: Grey, frame: Mask) -> float:
  """The mode of the grey levels, the border counting as much as the rest."""
  every = np.histogram(grey, 32, (0, 1))[0] / grey.size
  border = np.histogram(grey[frame], 32, (0, 1))[0] / frame.sum()
  # Three bins wide, because noise spreads the ground over several.
  mode = np.convolve(every + border, np.ones(3), "same").argmax()
  near = np.abs(grey - (mode + 0.5) / 32) <= 1.5 / 32
  return float(np.median(grey[near]))


def _fit_surface(
  grey: Grey,
  terms: Float[np.ndarray, "height width K"],
  start: Grey,
  reach: float,
) -> Float[np.ndarray, " K"]:
  """Least squares by those pixels that are near, ever nearer, the surface."""
  residual = grey - start
  solution = np.zeros(terms.shape[-1])
  for _ in range(5):
    near = np.abs(residual) < reach
    values = grey[near]
    if values.size == 0:
      break
    if np.ptp(values) == 0:  # flat, as in MNIST itself: keep it exact
      solution[:] = 0
      solution[0] = values[0]
      break
    solution, *_ = np.linalg.lstsq(terms[near], values, rcond=None)
    residual = grey - terms @ solution
    reach = min(reach, _reach(float(np.median(np.abs(residual[near])))))
  return solution


def _reach(median_deviation: float) -> float:
  """Three standard deviations, between fixed bounds."""
  return min(max(3 * 1.4826 * median_deviation, 0.02), _GROUND_REACH)


def _strokes(ink: Grey) -> Mask:
  """True on the digit's strokes; specks and what enters from outside go."""
  labels, count = scipy.ndimage.label(ink > _EDGE, np.ones((3, 3)))
  weights = np.bincount(labels.ravel(), ink.ravel(), count + 1)
  weights[0] = 0
  foreign = _foreign(labels, count)
  # A tightly cut digit crosses the border too; then nothing lies inside.
  if weights[~foreign].sum() > 0.1 * weights.sum():
    weights[foreign] = 0
  keep = weights > _SPECK * weights.max()
  return keep[labels]


def _foreign(
  labels: Int[np.ndarray, "height width"], count: int
) -> Bool[np.ndarray, " labels"]:
  """True for components that enter from outside: ruled lines, table edges.

  They touch two sides of the picture, or more than a quarter of one.
  """
  sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
  share = np.stack(
    [np.bincount(side, minlength=count + 1) / side.size for side in sides]
  )
  return ((share > 0).sum(axis=0) >= 2) | (share > 0.25).any(axis=0)


def _thicken(ink: Grey, kept: Mask) -> Float[np.ndarray, "h w"]:
  """Widens strokes that MNIST hardly has, such as a mouse draws.

  Otherwise they would fade when they are scaled down. A bar of width w has a
  mean distance to its edge of w / 4.
  """
  pixel = max(_cut(kept).shape) / BOX
  padded = np.pad(kept, 1)
  width = 4 * scipy.ndimage.distance_transform_edt(padded)[padded].mean()
  radius = int((_THINNEST * pixel - width) / 2)
  ink = np.where(kept, ink, 0)
  if radius < 1:
    return ink
  # A wide pen would be cut by the border of a tightly cut picture.
  ink = np.pad(ink, radius)
  y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
  return scipy.ndimage.grey_dilation(
    ink, footprint=x * x + y * y <= radius * radius
  )


def _fit(ink: Grey) -> Float[np.ndarray, "h w"]:
  """Scales to a longer side of BOX, aspect kept, brightest pixel 1."""
  height, width = ink.shape
  scale = BOX / max(height, width)
  size = (max(1, round(width * scale)), max(1, round(height * scale)))
  image = Image.fromarray(ink.astype(np.float32))
  fitted = np.asarray(image.resize(size, Image.Resampling.HAMMING), np.float64)
  return fitted / fitted.max()


def _centre(ink: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "28 28"]:
  """Places ink in 28x28 by whole pixels, its centre of mass nearest CENTRE."""
  pads = []
  for mass, length in zip(
    scipy.ndimage.center_of_mass(ink), ink.shape, strict=True
  ):
    # Never so far that a part of the digit falls outside.
    before = int(np.clip(np.rint(CENTRE - mass), 0, SIDE - length))
    pads.append((before, SIDE - length - before))
  return np.pad(np.rint(255 * ink).astype(np.uint8), pads)
