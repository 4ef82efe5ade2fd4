"""Model of a frame: smooth light times blurred transmissions of particles, and its derivatives.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from scipy import sparse
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

__all__ = ["Imaging"]

FINE = 2  # samples of the transmission per pixel and axis
EDGE = 0.04  # softness of a particle's outline on these samples, in squared radii
DEEPEST = 6.0  # optical depth; darker particles look the same
FAINT = 3e-3  # of a derivative's largest value; less is taken for nothing
KNOTS = 2.0  # diameters between the background's knots


@dataclass(frozen=True)
class Imaging:
    """What all particles of a frame share: their form, how the microscope blurs it, and the dark level."""

    exponent: float = 0.25  # of (1 - r²/R²) in the thickness: 0 a standing rod or plate, 0.5 a sphere
    blur: float = 0.12  # standard deviation of the blur along one axis / diameter
    disk: float = 0.3  # share of the blur's variance that is a disk's (defocus); the rest is Gaussian
    tail: float = 0.03  # decay length of the long-tailed blur of cameras, exp(-length × wave number) / diameter
    offset: float = 0.0  # counts without light / median of the frame
    coma_y: float = 0.0  # of a pattern that repeats every diameter, in radians of phase: one side's edge is sharper
    coma_x: float = 0.0
    long_y: float = 0.0  # logarithm of the particles' extent along y over that along x
    long_diagonal: float = 0.0  # the same along the diagonals, y = x over y = -x

    lowest: ClassVar = (0.02, 0.0, 0.0, 0.0, -0.5, -1.0, -1.0, -0.6, -0.6)
    highest: ClassVar = (0.6, 0.5, 1.0, 0.3, 0.95, 1.0, 1.0, 0.6, 0.6)

    def moved(self, step, greatest_offset: float = 0.95) -> Imaging:
        """Parameters after a step, within what is physical."""
        moved = Imaging(*np.clip(np.add(astuple(self), step), self.lowest, self.highest).tolist())
        return replace(moved, offset=min(moved.offset, greatest_offset))

    def stretch(self) -> tuple[float, float, float]:
        """Elements yy, yx and xx of the matrix, of determinant 1, that makes a circle of the particles' ellipse."""
        size = np.hypot(self.long_y, self.long_diagonal)
        along = np.sinh(size) / size if size else 1.0
        return np.cosh(size) - along * self.long_y, -along * self.long_diagonal, np.cosh(size) + along * self.long_y

    def transfer(self, shape, diameter):
        """Transfer function of the blur on the frequencies of ``rfft2`` of an image (y, x); ``diameter`` in pixels."""
        ky, kx = torch.fft.fftfreq(shape[0]), torch.fft.rfftfreq(shape[1])
        q2 = (2 * np.pi) ** 2 * (ky[:, None] ** 2 + kx[None, :] ** 2)
        variance = (self.blur * diameter) ** 2
        soft = torch.exp(-0.5 * (1 - self.disk) * variance * q2 - self.tail * diameter * torch.sqrt(q2))
        u = torch.sqrt(4 * self.disk * variance * q2).clamp(min=1e-3)  # a disk of radius R has the variance R²/4
        # Third order in the wave number: it moves no centre of mass.
        phase = (diameter / (2 * np.pi)) ** 2 * q2 * diameter * (self.coma_y * ky[:, None] + self.coma_x * kx[None, :])
        return soft * 2 * torch.special.bessel_j1(u) / u * torch.polar(torch.ones_like(phase), phase)

    def reach(self, diameter) -> int:
        """Pixels that the blur carries light across, all but its far tail."""
        return int(np.ceil(((3.0 - self.disk) * self.blur + 0.5 * np.hypot(self.coma_y, self.coma_x)) * diameter)) + 1


def _profile(rho2, depth, exponent, slopes: bool = True):
    """Optical depth of particles against squared distance over squared radius, and its derivatives.

    ``depth`` is that of their centres. The outline is softened over a sample in transmission, not in depth: pixels
    average light. Derivatives, left out without ``slopes``, are by ``rho2``, the logarithm of ``depth``
    and ``exponent``.
    """
    u = 1 - rho2
    root = torch.sqrt(u * u + EDGE * EDGE)
    thick = torch.log((0.5 * (root + u)).clamp(min=1e-6))
    edge, shape = torch.sigmoid(u / EDGE), torch.exp(exponent * thick)
    passed = torch.exp(-depth * shape)
    t = (1 - edge * (1 - passed)).clamp(min=1e-6)
    if not slopes:
        return (-torch.log(t),)
    by_depth = edge * passed * depth * shape / t
    by_rho2 = -edge * (1 - edge) * (1 - passed) / (EDGE * t) - by_depth * exponent / root
    return -torch.log(t), by_rho2, by_depth, by_depth * thick


class _Background:
    """The smooth light that particles are seen against: cubic B-splines on a coarse grid."""

    def __init__(self, shape, distance):
        self.axes = [_spline_basis(n, distance) for n in shape]
        # Products of two splines that overlap, (4, splines, pixels): the normal matrix is separable in them.
        self.pairs = [torch.stack([b * torch.roll(b, -k, 0) for k in range(4)]) for b in self.axes]
        # Squared second differences of the coefficients along both axes keep dark places determined.
        y, x = (torch.diff(torch.eye(len(b)), n=2, dim=0) for b in self.axes)
        self.bending = torch.kron(y.T @ y, torch.eye(len(x[0]))) + torch.kron(torch.eye(len(y[0])), x.T @ x)

    def fit(self, frame, t):
        """Background that explains ``frame = background · t`` best (least squares)."""
        return self._solved(self._normal(t), frame * t)

    def answer(self, frame, t, background, changes):
        """Changes of the fitted background for changes (k, y, x) of ``t`` and, the last, for a frame darker by 1."""
        weighted = torch.cat([changes * (frame - 2 * t * background), -t[None]])
        return self._solved(self._normal(t), weighted)

    def _normal(self, t):
        """Normal matrix of the coefficients."""
        p, q = (len(b) for b in self.axes)
        moments = self.pairs[0].reshape(4 * p, -1) @ (t * t) @ self.pairs[1].reshape(4 * q, -1).T
        moments = moments.reshape(4, p, 4, q)
        normal = torch.zeros(p, p, q, q)
        for a in range(4):
            for b in range(4):
                for i, j in {(a, b), (-a, b), (a, -b), (-a, -b)}:
                    band = torch.diagonal(torch.diagonal(normal, i, 0, 1), j, 0, 1)
                    band.copy_(moments[a, : p - a, b, : q - b])
        normal = normal.permute(0, 2, 1, 3).reshape(p * q, p * q)
        return normal + 1e-3 * torch.diagonal(normal).mean() * self.bending

    def _solved(self, normal, images):
        """Backgrounds (..., y, x) whose coefficients solve the normal equations for images as they are weighted."""
        one, other = self.axes
        moments = one @ images @ other.T
        coefficients = torch.linalg.solve(normal, moments.reshape(-1, len(normal)).T).T
        return one.T @ coefficients.reshape(moments.shape) @ other


def _spline_basis(n, distance):
    """Cubic B-splines (splines, pixels) with about the given distance between knots, to both ends of the axis."""
    spans = max(int(round(n / distance)), 1)
    knots = -0.5 + n / spans * np.arange(-3, spans + 4)
    basis = BSpline.design_matrix(np.arange(n, dtype=float), knots, 3).toarray()
    return torch.from_numpy(np.ascontiguousarray(basis.T, np.float32))


class ImageModel:
    """Frame = offset + background × blur(product of transmissions), and its derivatives.

    ``theta`` is (n, 4): y, x (px), log diameter (px), log optical depth.
    """

    def __init__(self, frame, diameter):
        frame = np.asarray(frame, np.float32)
        smooth = gaussian_filter(frame, diameter / 4)
        low, high = np.percentile(smooth, [1, 90])
        # Transmissions multiply counts above the dark level. A frame below zero, or far above with hardly any contrast,
        # has lost that level and gets one; the fit of the offset does the rest.
        lift = 0.0 if low > 0 and high - low > 0.08 * high else 0.5 * (high - low) - low
        self.scale = float(np.median(frame + lift)) or 1.0
        self.frame = torch.from_numpy(((frame + lift) / self.scale).astype(np.float32))
        self.contrast = float((high - low) / (high + lift + 1e-30))
        self.darkest = 0.98 * float(smooth.min() + lift) / self.scale
        self.diameter, self.shape = diameter, frame.shape
        self.noise = max(_pixel_noise(frame), 1e-6 * (high - low) + 1e-30) / self.scale
        self.half = int(np.ceil(0.62 * diameter)) + 1  # px, of a particle's window before blurring
        self.pad = int(np.ceil(1.2 * diameter))  # px around the frame, so that particles at its border are whole
        samples = np.arange(FINE * (2 * self.half + 1))
        self.axis = torch.from_numpy((samples + 0.5) / FINE - 0.5 - self.half).float()  # px from the window's middle
        self.background = _Background(frame.shape, KNOTS * diameter)
        self.margin = (
            0  # px along the border that do not count: blur mixes in light from outside, where nothing is known
        )
        self.latest = None  # parameters, image and background of the last call of `image`

    def place(self, theta):
        """Lay whole-pixel windows around the particles; they serve while particles move by less than a pixel or two."""
        self.corner = torch.round(theta[:, :2]).long()
        fine = FINE * (self.corner - self.half + self.pad)[:, :, None] + torch.arange(len(self.axis))
        self.fine_shape = tuple(FINE * (n + 2 * self.pad) for n in self.shape)
        self.index, inside = _flat_index(fine[:, 0], fine[:, 1], self.fine_shape)
        self.inside = inside.float()
        self.latest = None

    def _offsets(self, theta):
        """Distances (px) along y and x from the particles, in their windows."""
        y = self.axis[None, :, None] + (self.corner[:, 0] - theta[:, 0])[:, None, None]
        return y, self.axis[None, None, :] + (self.corner[:, 1] - theta[:, 1])[:, None, None]

    def depths(self, theta, imaging, slopes: bool = True):
        """In every window: offsets (px) as of round particles, squared relative distance, depth and its derivatives."""
        y, x = self._offsets(theta)
        yy, yx, xx = imaging.stretch()
        along_y, along_x = yy * y + yx * x, yx * y + xx * x
        rho2 = (y * along_y + x * along_x) * (4 * torch.exp(-2 * theta[:, 2]))[:, None, None]
        depths = _profile(rho2, torch.exp(theta[:, 3])[:, None, None], imaging.exponent, slopes)
        return along_y, along_x, rho2, *(d * self.inside for d in depths)

    def transmission(self, theta, imaging, depths=None):
        """Product of all particles' transmissions on the fine grid, with a border around the frame."""
        depths = self.depths(theta, imaging, slopes=False) if depths is None else depths
        total = torch.zeros(self.fine_shape[0] * self.fine_shape[1])
        total.index_add_(0, self.index.flatten(), depths[3].flatten())
        return torch.exp(-total).reshape(self.fine_shape)

    def changes_of_form(self, theta, imaging):
        """Transmission, then its derivatives by all log diameters, all log depths, exponent and the two elongations."""
        _, _, rho2, depth, by_rho2, by_depth, by_exponent = self.depths(theta, imaging)
        y, x = self._offsets(theta)
        long, scale = [], (4 * torch.exp(-2 * theta[:, 2]))[:, None, None]
        for name, step in ELONGATION.items():
            moved = replace(imaging, **{name: getattr(imaging, name) + step})
            yy, yx, xx = np.subtract(moved.stretch(), imaging.stretch()) / step
            long.append(by_rho2 * (y * (yy * y + 2 * yx * x) + xx * x * x) * scale)
        changes = torch.stack([depth, -2 * rho2 * by_rho2, by_depth, by_exponent, *long]).flatten(1)
        total = torch.zeros(len(changes), self.fine_shape[0] * self.fine_shape[1])
        total.index_add_(1, self.index.flatten(), changes)
        t = torch.exp(-total[0])
        total[0], total[1:] = t, -t * total[1:]
        return total.reshape(-1, *self.fine_shape)

    def image(self, theta, imaging, transmission=None):
        """Fitted frame and background."""
        if self.latest is not None and self.latest[0] is theta and self.latest[1] == imaging:
            return self.latest[2:]
        t = self.transmission(theta, imaging) if transmission is None else transmission
        t = block_mean(t)
        t = torch.fft.irfft2(torch.fft.rfft2(t) * imaging.transfer(t.shape, self.diameter), s=t.shape)
        t = t[self.pad : self.pad + self.shape[0], self.pad : self.pad + self.shape[1]]
        background = self.background.fit(self.frame - imaging.offset, t)
        self.latest = theta, imaging, imaging.offset + background * t, background
        return self.latest[2:]

    def counted(self):
        """1 where pixels count, 0 at the border."""
        counted = torch.zeros(self.shape)
        counted[(slice(self.margin, -self.margin or None),) * 2] = 1
        return counted

    def residual(self, image):
        """Frame minus model over the noise; 0 at the border."""
        return self.counted() * (self.frame - image) / self.noise

    def cost(self, theta, imaging) -> float:
        """Sum of squared residuals over the noise variance."""
        return float((self.residual(self.image(theta, imaging)[0]) ** 2).sum())

    def jacobian(self, theta, imaging):
        """Derivatives of the frame by each particle's parameters, in units of the noise; and the model's frame."""
        y, x, rho2, _, by_rho2, by_depth, _ = depths = self.depths(theta, imaging)
        t = self.transmission(theta, imaging, depths)
        image, background = self.image(theta, imaging, t)
        through = -t.flatten()[self.index]
        inverse = -8 * torch.exp(-2 * theta[:, 2])[:, None, None]
        by_rho2 = through * by_rho2
        columns = [by_rho2 * inverse * y, by_rho2 * inverse * x, -2 * by_rho2 * rho2, through * by_depth]
        return _Jacobian(*self.blurred(torch.stack(columns, dim=1), imaging, background), self.shape), image

    def blurred(self, changes, imaging, background):
        """Changes (n, k, fine, fine) of the transmission as changes of the frame over the noise, and their pixels."""
        changes, reach = block_mean(changes), imaging.reach(self.diameter)
        edge = _fast_size(changes.shape[-1] + 2 * reach)
        changes = torch.nn.functional.pad(changes, (reach, edge - changes.shape[-1] - reach) * 2)
        transfer = imaging.transfer(changes.shape[-2:], self.diameter)
        changes = torch.fft.irfft2(torch.fft.rfft2(changes) * transfer, s=changes.shape[-2:])
        around = self.corner[:, :, None] + torch.arange(edge) - (self.half + reach)
        index, inside = _flat_index(around[:, 0], around[:, 1], self.shape)
        weight = inside * (self.counted() * background).flatten()[index] / self.noise
        return changes * weight[:, None], index

    def block_noise(self, image, fitted: float = 0.0) -> float:
        """Standard deviation of the residual at the scale of a third of a particle, as of white noise per pixel.

        ``fitted`` numbers took their share of the noise out of the residual; it is given back.
        """
        b = max(int(round(self.diameter / 3)), 1)
        residual = self.residual(image).numpy() * self.noise
        height, width = (n // b * b for n in self.shape)
        blocks = residual[:height, :width].reshape(height // b, b, -1, b).mean(axis=(1, 3))
        free = max(1 - fitted / blocks.size, 0.3)
        return max(float(b * blocks.std() / np.sqrt(free)), 1e-9)


def _flat_index(rows, columns, shape):
    """Flat index (n, y, x) of windows given by their rows (n, y) and columns (n, x), and what lies in the image."""
    inside = ((rows >= 0) & (rows < shape[0]))[:, :, None] & ((columns >= 0) & (columns < shape[1]))[:, None, :]
    rows, columns = rows.clamp(0, shape[0] - 1), columns.clamp(0, shape[1] - 1)
    return rows[:, :, None] * shape[1] + columns[:, None, :], inside


def block_mean(x):
    """Mean of FINE × FINE samples; adding slices is several times faster than reshaping and averaging."""
    rows = sum(x[..., k::FINE, :] for k in range(FINE))
    return sum(rows[..., k::FINE] for k in range(FINE)) / FINE**2


def _fast_size(n) -> int:
    """An edge of at least n for which small batched Fourier transforms are fast."""
    return next((size for size in (16, 20, 24, 32, 40, 48, 64, 80, 96, 128) if size >= n), n)


def _pixel_noise(frame) -> float:
    """Pixel noise from the smallest details: median absolute second difference along both diagonals."""
    d = frame[1:, 1:] - frame[1:, :-1] - frame[:-1, 1:] + frame[:-1, :-1]
    return float(np.median(np.abs(d)) / 0.6745 / 2)


class _Jacobian:
    """The sparse matrix of derivatives: (n, 4, pixels) windows and the flat pixels (n, pixels) they lie on."""

    def __init__(self, windows, index, shape):
        self.windows, self.index, self.size = windows.flatten(2), index.flatten(1), shape[0] * shape[1]

    def forward(self, step):
        """Change of the frame for a step (n, 4)."""
        change = torch.bmm(step[:, None], self.windows)
        return torch.zeros(self.size).index_add_(0, self.index.flatten(), change.flatten())

    def transposed(self, image):
        """Gradient (n, 4) of a flat image."""
        return torch.bmm(self.windows, image[self.index][:, :, None])[:, :, 0]

    def blocks(self):
        """Each particle's own 4 × 4 block of the normal matrix."""
        return self.windows @ self.windows.transpose(1, 2)

    def matrix(self) -> sparse.csr_matrix:
        """All derivatives as one matrix (4 n, pixels of the frame)."""
        n, k, p = self.windows.shape
        index = np.repeat(self.index.numpy(), k, axis=0)
        seen = self.windows.abs() > FAINT * self.windows.abs().amax(dim=2, keepdim=True)
        matrix = sparse_rows((self.windows * seen).reshape(n * k, p).numpy(), index, self.size)
        matrix.eliminate_zeros()
        return matrix

    def variances(self, yx, precision, reach, some=slice(None)) -> np.ndarray:
        """Variances (m, 4) of some particles' parameters, their neighbours' left free and all others held.

        ``precision`` (4 n, 4 n) is the prior's normal matrix.
        """
        matrix = self.matrix()
        normal = (matrix @ matrix.T + precision).tocsr()
        chosen = np.arange(len(yx))[some]
        out = np.empty((len(chosen), 4))
        for k, (i, near) in enumerate(zip(chosen, cKDTree(yx).query_ball_point(yx[chosen], reach), strict=True)):
            near = np.array([i, *(j for j in near if j != i)])
            index = (4 * near[:, None] + np.arange(4)).ravel()
            out[k] = np.diag(np.linalg.inv(normal[index][:, index].toarray()))[:4]
        return out


def sparse_rows(windows, index, size) -> sparse.csr_matrix:
    """Rows (m, size) of a matrix from their values (m, pixels) and where these lie."""
    pointer = np.arange(0, windows.size + 1, windows.shape[1])
    return sparse.csr_matrix((windows.ravel(), index.ravel(), pointer), (len(windows), size))


#: Steps by which derivatives of elongation and blur are taken.
ELONGATION = {"long_y": 0.01, "long_diagonal": 0.01}
OPTICAL = {"blur": 5e-4, "disk": 5e-3, "tail": 5e-4, "coma_y": 2e-3, "coma_x": 2e-3}
