"""A frame as smooth light times blurred transmissions of particles, and its derivatives (chapter 7, "Particles")."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.interpolate import BSpline
from scipy.linalg import solveh_banded
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from .profile_and_blur import SHARED, Imaging, select, stretch_matrix
from .soft_thickness import EDGE, soften

# Lengths "in diameters" are multiples of the expected diameter. Values without a source were set by hand. Literals from
# 1e-6 down only guard divisions and logarithms.

#: What a particle has of its own: position (px); logarithms of diameter (px), of optical depth at the centre and of the
#: power of its thickness with which it darkens; and, where shapes are fitted, how much longer it is, along y and along
#: the diagonal, than `Imaging` says.
OWN = ("y", "x", "diameter", "depth", "power", "long_y", "long_diagonal")
ALIKE, ROUND = 4, 5  # of these, how many particles of one profile have, and round ones of profiles of their own

# Grid of the model.
FINE = 2  # samples of the transmission per pixel and axis
WINDOW = 0.62  # diameters, half the edge of a particle's window: its radius, stretched or grown by up to a quarter
FAST = (16, 20, 24, 32, 40, 48, 64, 80, 96, 128)  # px; edges of windows with fast small batched Fourier transforms
PAD = 1.2  # diameters around the frame, so that particles at its border are whole and blurred as others are
THIN = 1e-4  # of the thickness in the middle; powers of what is thinner are taken as of this
FAINT = 1e-2  # of a derivative's largest value; smaller ones are left out of sparse matrices

# Light that the particles are seen against.
KNOTS = 2.0  # diameters between the background's knots: wider than a particle, narrower than clouds
BENDING = 3e-4  # of a spline's squares without particles: determines the background where particles are opaque
TINY = 1e-9  # of the same, so that a frame of which nothing counts has a background

# First look at a frame.
NOISE_SMOOTHING = 0.25  # diameters, standard deviation: averages pixel noise and keeps particles
DARK, LIGHT = 1, 90  # percentiles of the smoothed frame, in particles and between them
LOST_LEVEL = 0.08  # of the light; with less contrast a frame is taken to stand on counts that are not light
NEW_LEVEL = 0.5  # of the contrast, below the darkest counts: particles then take two thirds of the light
BELOW_DARKEST = 0.98  # of the darkest counts; a dark level above would make transmissions negative
LEAST_NOISE = 1e-6  # of the contrast, so that a frame without noise has finite weights

# Noise at the scale of a particle.
BLOCKS = 3  # per diameter: blocks whose means show the noise, that of the camera's correlated pixels included
LEAST_FREE = 0.3  # share of blocks that stays free, however many numbers are fitted
STD_TO_MAD = 0.6745  # median of |x| / standard deviation, of a Gaussian: 1 / 1.4826


def soft_profile(rho2, depth, power, imaging: Imaging, slopes: bool = True):
    """Optical depth of particles against squared distance over squared radius, and its derivatives.

    ``depth`` is that of their centres; with ``power``, it goes with that power of the thickness. The outline is
    softened over a sample in transmission, not in depth: pixels average light. Derivatives, left out without
    ``slopes``, are by ``rho2``, the logarithm of ``depth``, the exponent, the softness and, where there is one, the
    logarithm of ``power``.
    """
    if imaging.soft > 0:
        soft = soften(imaging.exponent, imaging.soft)
        shape, *shape_slopes = soft.look_up(rho2, slopes)
        u, edge_by_soft = soft.edge - rho2, soft.edge_by_soft
    else:
        u, edge_by_soft = 1 - rho2, 0.0
        root = torch.sqrt(u * u + EDGE * EDGE)
        thick = torch.log((0.5 * (root + u)).clamp(min=1e-6))
        shape = torch.exp(imaging.exponent * thick)
        shape_slopes = [-imaging.exponent * shape / root, thick * shape, torch.zeros_like(shape)] if slopes else []
    if power is not None:
        log_shape = torch.log(shape.clamp(min=THIN))
        raised = torch.exp(power * log_shape)
        by_power = raised * power * log_shape
        shape_slopes = [slope * power * raised / shape.clamp(min=THIN) for slope in shape_slopes]
        shape = raised
    edge, passed = torch.sigmoid(u / EDGE), torch.exp(-depth * shape)
    t = (1 - edge * (1 - passed)).clamp(min=1e-6)
    if not slopes:
        return (-torch.log(t),)
    shape_by_rho2, by_exponent, by_soft = shape_slopes
    by_shape = edge * passed * depth / t
    by_edge = edge * (1 - edge) * (1 - passed) / (EDGE * t)
    by_rho2, by_soft = by_shape * shape_by_rho2 - by_edge, by_shape * by_soft + by_edge * edge_by_soft
    found = -torch.log(t), by_rho2, by_shape * shape, by_shape * by_exponent, by_soft
    return found if power is None else (*found, by_shape * by_power)


class Background:
    """The smooth light that particles are seen against: cubic B-splines on a coarse grid."""

    def __init__(self, shape, distance):
        self.axes = [spline_basis(n, distance) for n in shape]
        # Products of two splines that overlap, (4, splines, pixels): the normal matrix is separable in them.
        self.pairs = [torch.stack([b * torch.roll(b, -k, 0) for k in range(4)]) for b in self.axes]
        # Squared second differences of the coefficients along both axes keep dark places determined.
        size = float(np.prod([(b * b).sum(1).mean() for b in self.axes]))
        self.bend = [np.sqrt(BENDING * size) * np.diff(np.eye(len(b)), n=2, axis=0) for b in self.axes]
        bands = [[np.pad(np.diagonal(d.T @ d, k), (0, k)) for k in range(4)] for d in self.bend]
        self.stiffness = np.zeros([n for b in self.axes for n in (4, len(b))])
        self.stiffness[:, :, 0] += np.array(bands[0])[:, :, None]
        self.stiffness[0] += np.array(bands[1])
        self.stiffness[0, :, 0] += TINY * size

    def fit(self, frame, t, weight):
        """Background that explains ``frame = background · t`` best where ``weight`` is 1, and how much it bends.

        It minimizes the squared residuals plus this number; so their sum has no derivative by the background.
        """
        coefficients = self._solve(t * weight, frame * t * weight)
        y, x = (np.tensordot(d, coefficients, (1, k)) for k, d in enumerate(self.bend))
        return self._draw(coefficients), float((y**2).sum() + (x**2).sum())

    def differentiate(self, frame, t, weight, background, changes):
        """Changes of the fitted background for changes (k, y, x) of ``t`` and, the last, for a frame darker by 1."""
        images = torch.cat([changes * (frame - 2 * t * background), -t[None]])
        return self._draw(self._solve(t * weight, images * weight))

    def _draw(self, coefficients):
        """Images (..., y, x) of splines with these coefficients (..., splines along y, along x)."""
        one, other = self.axes
        return one.T @ torch.from_numpy(coefficients).float() @ other

    def _solve(self, t, images):
        """Coefficients that solve the normal equations of ``t`` for weighted images (..., y, x)."""
        one, other = self.axes
        p, q = len(one), len(other)
        moments = self.pairs[0].reshape(4 * p, -1) @ (t * t) @ self.pairs[1].reshape(4 * q, -1).T
        moments = moments.numpy().reshape(4, p, 4, q) + self.stiffness
        bands = np.zeros((3 * q + 4, p, q))  # below the diagonal of the normal matrix, as of solveh_banded
        for a in range(4):
            for b in range(-3 if a else 0, 4):
                bands[a * q + b, : p - a, max(-b, 0) : q - max(b, 0)] += moments[a, : p - a, abs(b), : q - abs(b)]
        wanted = (one @ images @ other.T).reshape(-1, p * q).numpy().astype(float)
        found = solveh_banded(bands.reshape(-1, p * q), wanted.T, lower=True)
        return found.T.reshape(*images.shape[:-2], p, q)


def spline_basis(n, distance):
    """Cubic B-splines (splines, pixels) with about the given distance between knots, to both ends of the axis."""
    spans = max(int(round(n / distance)), 1)
    knots = -0.5 + n / spans * np.arange(-3, spans + 4)
    basis = BSpline.design_matrix(np.arange(n, dtype=float), knots, 3).toarray()
    return torch.from_numpy(np.ascontiguousarray(basis.T, np.float32))


class Prediction(NamedTuple):
    """The frame that the model predicts for some parameters."""

    theta: torch.Tensor
    imaging: Imaging
    transmission: torch.Tensor  # product of all particles', on the fine grid, with a border around the frame
    image: torch.Tensor  # (y, x), medians of the frame
    background: torch.Tensor  # (y, x), the same without particles
    bent: float  # what the bending of the background costs, in squared medians of the frame


@dataclass(frozen=True, eq=False)
class ImageModel:
    """Frame = offset + background × blur(product of transmissions), and its derivatives.

    ``theta`` is (n, k), the first k of `OWN`. Nothing changes in place: `place` and `weigh` return a model with other
    windows and other weights of the pixels.
    """

    frame: torch.Tensor  # (y, x), in medians of the frame
    diameter: float  # px, expected
    contrast: float  # share of the light that particles take, about
    darkest: float  # highest possible dark level, in medians of the frame
    noise: float  # standard deviation that residuals are divided by, in medians of the frame
    background: Background
    half: int  # px from the middle pixel of a particle's window to its edge, before blurring
    pad: int  # px around the frame
    axis: torch.Tensor  # px, from a window's middle to its samples
    fine_shape: tuple[int, int]  # of the padded frame, in fine samples
    margin: int = 0  # px along the border that do not count: blur mixes in light from outside, where nothing is known
    # Whole-pixel windows around the particles; they serve while particles move by less than a pixel or two.
    corner: torch.Tensor = torch.empty(0)  # (n, 2), px: the particles' positions, rounded
    samples: torch.Tensor = torch.empty(0)  # (n, y, x), where the windows' samples lie in the flat fine grid
    inside: torch.Tensor = torch.empty(0)  # (n, y, x), 1 where samples are on the grid
    held: torch.Tensor = torch.zeros(1)  # optical depth of particles that do not change, on the flat fine grid

    @classmethod
    def look_at(cls, frame: np.ndarray, diameter: float) -> "ImageModel":
        """Model of a frame (y, x) in any unit, from a first look at its light and noise."""
        frame = np.asarray(frame, np.float32)
        # Pixel noise from the smallest details: a difference of four independent pixels has √4 times the noise.
        details = frame[1:, 1:] - frame[1:, :-1] - frame[:-1, 1:] + frame[:-1, :-1]
        noise = float(np.median(np.abs(details)) / STD_TO_MAD / 2)
        smooth = gaussian_filter(frame, diameter * NOISE_SMOOTHING)
        low, high = np.percentile(smooth, [DARK, LIGHT])
        # Transmissions multiply counts above the dark level. A frame below zero, or far above with hardly any contrast,
        # has lost that level and gets one; the offset is fitted later.
        lift = 0.0 if low > 0 and high - low > LOST_LEVEL * high else NEW_LEVEL * (high - low) - low
        scale = float(np.median(frame + lift)) or 1.0
        half, pad = int(np.ceil(WINDOW * diameter)) + 1, int(np.ceil(PAD * diameter))
        axis = (np.arange(FINE * (2 * half + 1)) + 0.5) / FINE - 0.5 - half
        return cls(
            frame=torch.from_numpy(((frame + lift) / scale).astype(np.float32)),
            diameter=diameter,
            contrast=float((high - low) / (high + lift + 1e-30)),
            darkest=BELOW_DARKEST * float(smooth.min() + lift) / scale,
            noise=max(noise, LEAST_NOISE * (high - low) + 1e-30) / scale,
            background=Background(frame.shape, KNOTS * diameter),
            half=half,
            pad=pad,
            axis=torch.from_numpy(axis).float(),
            fine_shape=pad_finely(frame.shape, pad),
        )

    def crop(self, corner: tuple[int, int], end: tuple[int, int]) -> "ImageModel":
        """The model of the part of the frame from a corner (y, x) to another one, without windows."""
        frame = self.frame[corner[0] : end[0], corner[1] : end[1]]
        shape = frame.shape[0], frame.shape[1]
        background = Background(shape, KNOTS * self.diameter)
        return replace(self, frame=frame, background=background, fine_shape=pad_finely(shape, self.pad))

    @property
    def shape(self) -> tuple[int, int]:
        """Of the frame (y, x), in pixels."""
        return self.frame.shape[0], self.frame.shape[1]

    def place(self, theta: torch.Tensor) -> "ImageModel":
        """The model with windows around these particles."""
        return self._open_windows(torch.round(theta[:, :2]).long())

    def _open_windows(self, corner) -> "ImageModel":
        fine = FINE * (corner - self.half + self.pad)[:, :, None] + torch.arange(len(self.axis))
        index, inside = flat_index(fine[:, 0], fine[:, 1], self.fine_shape)
        return replace(self, corner=corner, samples=index, inside=inside.float())

    def hold(self, theta: torch.Tensor, imaging: Imaging) -> "ImageModel":
        """The model in which these particles stay as they are, and are not among the parameters."""
        return replace(self, held=self.place(theta)._total_depth(theta, imaging))

    def weigh(self, imaging: Imaging) -> "ImageModel":
        """The model with windows as wide as these outlines, and without the border that particles outside reach."""
        return replace(self.widen(imaging), margin=int(np.ceil(max(imaging.blur, 2 * imaging.soft) * self.diameter)))

    def widen(self, imaging: Imaging) -> "ImageModel":
        """The model with windows for outlines as soft as these: a disk of radius r has the variance r²/4."""
        half = int(np.ceil((WINDOW + 2 * imaging.soft) * self.diameter)) + 1
        axis = (torch.arange(FINE * (2 * half + 1)) + 0.5) / FINE - 0.5 - half
        return self if half == self.half else replace(self, half=half, axis=axis)._open_windows(self.corner)

    def _offsets(self, theta):
        """Distances (px) along y and x from the particles, in their windows."""
        y, x = (self.corner - theta[:, :2]).T[:, :, None, None]
        return self.axis[:, None] + y, self.axis + x

    def depths(self, theta, imaging, slopes: bool = True):
        """In every window: offsets (px) as of round particles, squared relative distance, depth and its derivatives."""
        y, x = self._offsets(theta)
        yy, yx, xx = stretch_of(theta, imaging)[..., None, None]
        along_y, along_x = yy * y + yx * x, yx * y + xx * x
        rho2 = (y * along_y + x * along_x) * (4 * torch.exp(-2 * theta[:, 2]))[:, None, None]
        depth, *power = torch.exp(theta[:, ALIKE - 1 : ROUND]).T[:, :, None, None]
        depths = soft_profile(rho2, depth, power[0] if power else None, imaging, slopes)
        return along_y, along_x, rho2, *(d * self.inside for d in depths)

    def render(self, theta: torch.Tensor, imaging: Imaging) -> Prediction:
        """Predict the frame; the background is the one that fits best."""
        transmission = torch.exp(-self._total_depth(theta, imaging)).reshape(self.fine_shape)
        t = block_mean(transmission)
        t = torch.fft.irfft2(torch.fft.rfft2(t) * imaging.transfer(t.shape, self.diameter), s=t.shape)
        t = t[self.pad : self.pad + self.shape[0], self.pad : self.pad + self.shape[1]]
        background, bent = self.background.fit(self.frame - imaging.offset, t, self.counted())
        return Prediction(theta, imaging, transmission, imaging.offset + background * t, background, bent)

    def _total_depth(self, theta, imaging):
        """Optical depth of all particles, on the flat fine grid."""
        depth = self.depths(theta, imaging, slopes=False)[3]
        total = self.held.expand(self.fine_shape[0] * self.fine_shape[1]).clone()
        return total.index_add_(0, self.samples.flatten(), depth.flatten())

    def counted(self):
        """1 where pixels count, 0 at the border."""
        counted = torch.zeros(self.shape)
        counted[(slice(self.margin, -self.margin or None),) * 2] = 1
        return counted

    def residual(self, image):
        """Frame minus model over the noise; 0 at the border."""
        return self.counted() * (self.frame - image) / self.noise

    def cost(self, predicted: Prediction) -> float:
        """Sum of squared residuals, and what the bending of the background costs."""
        return float((self.residual(predicted.image) ** 2).sum()) + predicted.bent / self.noise**2

    def linearise(self, predicted: Prediction) -> tuple["Jacobian", np.ndarray]:
        """Derivatives of the frame by each particle's parameters, and `shared_jacobian`."""
        form = self.depths(predicted.theta, predicted.imaging)
        return self.jacobian(predicted, form), self.shared_jacobian(predicted, form)

    def jacobian(self, predicted: Prediction, form=None) -> "Jacobian":
        """Derivatives of the frame by each particle's parameters, in units of the noise; ``form`` as of `depths`."""
        theta, imaging = predicted.theta, predicted.imaging
        y, x, rho2, _, by_rho2, by_depth, _, _, *by_power = form or self.depths(theta, imaging)
        through = -predicted.transmission.flatten()[self.samples]
        inverse = -8 * torch.exp(-2 * theta[:, 2])[:, None, None]
        by_rho2 = through * by_rho2
        columns = [by_rho2 * inverse * y, by_rho2 * inverse * x, -2 * by_rho2 * rho2]
        columns += [through * slope for slope in (by_depth, *by_power)]
        if theta.shape[1] > ROUND:
            columns += [by_rho2 * longer for longer in self._lengthen(theta, imaging).values()]
        changes = torch.stack(columns, dim=1)
        # Windows end where the blur carries next to no light, the gradient does not.
        asked = self._carry_back(predicted).flatten()[self.samples]
        gradient = torch.einsum("nkyx,nyx->nk", changes, asked)
        windows, pixels = self.blur(changes, imaging, predicted.background)
        return Jacobian(windows, pixels, self.shape, gradient)

    def _carry_back(self, predicted: Prediction) -> torch.Tensor:
        """Downhill derivative of half the squared residuals by the transmission, on the fine grid."""
        weighted = self.residual(predicted.image) * predicted.background / self.noise
        weighted = torch.nn.functional.pad(weighted, (self.pad,) * 4)
        shape = weighted.shape[0], weighted.shape[1]
        transfer = predicted.imaging.transfer(shape, self.diameter)
        back = torch.fft.irfft2(torch.fft.rfft2(weighted) * transfer.conj(), s=shape)
        return back.repeat_interleave(FINE, 0).repeat_interleave(FINE, 1) / FINE**2

    def blur(self, changes, imaging, background):
        """Changes (n, k, fine, fine) of the transmission as changes of the frame over the noise, and their pixels."""
        changes, reach = block_mean(changes), imaging.reach(self.diameter)
        needed = changes.shape[-1] + 2 * reach
        edge = next((size for size in FAST if size >= needed), needed)
        changes = torch.nn.functional.pad(changes, (reach, edge - changes.shape[-1] - reach) * 2)
        transfer = imaging.transfer(changes.shape[-2:], self.diameter)
        changes = torch.fft.irfft2(torch.fft.rfft2(changes) * transfer, s=changes.shape[-2:])
        around = self.corner[:, :, None] + torch.arange(edge) - (self.half + reach)
        index, inside = flat_index(around[:, 0], around[:, 1], self.shape)
        weight = inside * (self.counted() * background).flatten()[index] / self.noise
        return changes * weight[:, None], index

    def shared_jacobian(self, predicted: Prediction, form) -> np.ndarray:
        """Derivatives (pixels, k) of the frame over the noise by `SHARED`; the background follows."""
        imaging, shape = predicted.imaging, (self.fine_shape[0] // FINE, self.fine_shape[1] // FINE)
        names, changes = self._changes_of_form(predicted, form)
        waves = torch.fft.rfft2(block_mean(changes))
        transfer, optics = imaging.transfer(shape, self.diameter), select("transfer")
        moved = [replace(imaging, **{p.name: getattr(imaging, p.name) + p.step}) for p in optics]
        by_optics = [(m.transfer(shape, self.diameter) - transfer) / p.step for m, p in zip(moved, optics, strict=True)]
        waves = torch.cat([waves * transfer, waves[:1] * torch.stack(by_optics)])
        images = torch.fft.irfft2(waves, s=shape)[:, self.pad : -self.pad, self.pad : -self.pad]
        t, changes = images[0], images[1:]
        frame, background = self.frame - imaging.offset, predicted.background
        answers = self.background.differentiate(frame, t, self.counted(), background, changes)
        columns = torch.cat([background * changes + t * answers[:-1], 1 + t * answers[-1:]])
        names += [p.name for p in optics] + ["offset"]
        order = [names.index(p.name) for p in SHARED]
        columns = columns[order] * self.counted() / self.noise
        return columns.flatten(1).T.numpy().astype(float)

    def _changes_of_form(self, predicted, form):
        """Names of what shapes particles; transmission on the fine grid, then its derivatives by these."""
        theta, imaging = predicted.theta, predicted.imaging
        _, _, rho2, _, by_rho2, by_depth, by_exponent, by_soft, *_ = form
        changes = {"diameter": -2 * rho2 * by_rho2, "depth": by_depth, "exponent": by_exponent, "soft": by_soft}
        changes |= {name: by_rho2 * longer for name, longer in self._lengthen(theta, imaging).items()}
        t, total = predicted.transmission, torch.zeros(len(changes), self.fine_shape[0] * self.fine_shape[1])
        total.index_add_(1, self.samples.flatten(), torch.stack(list(changes.values())).flatten(1))
        return list(changes), torch.cat([t[None], -t * total.reshape(-1, *self.fine_shape)])

    def _lengthen(self, theta, imaging) -> dict[str, torch.Tensor]:
        """Derivatives of the squared relative distance, in every window, by how long particles are."""
        y, x = self._offsets(theta)
        scale, slopes = (4 * torch.exp(-2 * theta[:, 2]))[:, None, None], {}
        for p in select("stretch"):
            here = getattr(imaging, p.name)
            moved = [stretch_of(theta, replace(imaging, **{p.name: here + s * p.step})) for s in (0.5, -0.5)]
            yy, yx, xx = ((moved[0] - moved[1]) / p.step)[..., None, None]
            slopes[p.name] = (y * (yy * y + 2 * yx * x) + xx * x * x) * scale
        return slopes

    def block_noise(self, image, fitted: float = 0.0) -> float:
        """Standard deviation of the residual at the scale of a third of a particle, as of white noise per pixel.

        The fit of ``fitted`` parameters made the residual smaller than the noise; this is corrected for.
        """
        b = max(int(round(self.diameter / BLOCKS)), 1)
        residual = self.residual(image).numpy() * self.noise
        height, width = (n // b * b for n in self.shape)
        blocks = residual[:height, :width].reshape(height // b, b, -1, b).mean(axis=(1, 3))
        free = max(1 - fitted / blocks.size, LEAST_FREE)
        return max(float(b * blocks.std() / np.sqrt(free)), 1e-9)


def stretch_of(theta: torch.Tensor, imaging: Imaging) -> torch.Tensor:
    """Each particle's `stretch_matrix`, (3, n)."""
    long = torch.tensor([imaging.long_y, imaging.long_diagonal]).expand(len(theta), 2)
    return stretch_matrix(*(long + theta[:, ROUND:] if theta.shape[1] > ROUND else long).T)


def pad_finely(shape, pad) -> tuple[int, int]:
    """Shape, in fine samples, of a frame (y, x) with so many pixels around it."""
    height, width = shape
    return FINE * (height + 2 * pad), FINE * (width + 2 * pad)


def flat_index(rows, columns, shape):
    """Flat index (n, y, x) of windows given by their rows (n, y) and columns (n, x), and what lies in the image."""
    inside = ((rows >= 0) & (rows < shape[0]))[:, :, None] & ((columns >= 0) & (columns < shape[1]))[:, None, :]
    rows, columns = rows.clamp(0, shape[0] - 1), columns.clamp(0, shape[1] - 1)
    return rows[:, :, None] * shape[1] + columns[:, None, :], inside


def block_mean(x):
    """Mean of FINE × FINE samples; adding slices is several times faster than reshaping and averaging."""
    rows = sum(x[..., k::FINE, :] for k in range(FINE))
    return sum(rows[..., k::FINE] for k in range(FINE)) / FINE**2


class Jacobian:
    """The sparse matrix of derivatives: (n, k, pixels) windows and the flat pixels (n, pixels) they lie on.

    ``gradient`` (n, k) points downhill: minus the derivatives of half the squared residuals.
    """

    def __init__(self, windows, index, shape, gradient):
        self.windows, self.index, self.size = windows.flatten(2), index.flatten(1), shape[0] * shape[1]
        self.gradient = gradient

    def blocks(self):
        """Each particle's own k × k block of the normal matrix."""
        return self.windows @ self.windows.transpose(1, 2)

    def matrix(self) -> sparse.csr_matrix:
        """All derivatives as one matrix (k n, pixels of the frame)."""
        n, k, p = self.windows.shape
        index = np.repeat(self.index.numpy(), k, axis=0)
        seen = self.windows.abs() > FAINT * self.windows.abs().amax(dim=2, keepdim=True)
        matrix = sparse_rows((self.windows * seen).reshape(n * k, p).numpy(), index, self.size)
        matrix.eliminate_zeros()
        return matrix

    def variances(self, yx, precision, reach, some=slice(None)) -> np.ndarray:
        """Variances (m, k) of some particles' parameters, their neighbours' left free and all others held.

        ``precision`` (k n, k n) is the prior's normal matrix.
        """
        matrix, own = self.matrix(), self.windows.shape[1]
        normal = (matrix @ matrix.T + precision).tocsr()
        chosen = np.arange(len(yx))[some]
        out = np.empty((len(chosen), own))
        for k, (i, near) in enumerate(zip(chosen, cKDTree(yx).query_ball_point(yx[chosen], reach), strict=True)):
            near = np.array([i, *(j for j in near if j != i)])
            index = (own * near[:, None] + np.arange(own)).ravel()
            out[k] = np.diag(np.linalg.inv(normal[index][:, index].toarray()))[:own]
        return out


def sparse_rows(windows, index, size) -> sparse.csr_matrix:
    """Rows (m, size) of a matrix from their values (m, pixels) and where these lie."""
    pointer = np.arange(0, windows.size + 1, windows.shape[1])
    return sparse.csr_matrix((windows.ravel(), index.ravel(), pointer), (len(windows), size))
