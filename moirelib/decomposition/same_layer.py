"""Which particles lie in one layer, and in how many layers, from where they are (chapter 7, "Particles").

A small set transformer (Lee et al., ICML (2019)) looks at the particles nearest to each particle.
"""

from os import PathLike

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree
from torch import Tensor, nn

NEIGHBOURS = 64  # particles around each that the network sees
MOST_LAYERS = 3
CERTAIN = 4.0  # log-odds at which one pair's evidence is cut off: one in 50 pairs misleads even where all is clear
WAVES = 24  # learnt plane waves that describe where a neighbour is
SOFTENING = 0.2  # diameters, added to a distance before it is inverted; by hand, the weights were trained with it
FEATURES = 4 + 2 * WAVES + 1
BATCH = 64  # particles that the network sees at once: larger ones do not fit into a processor's cache


class SameLayer(nn.Module):
    """Log-odds that each neighbour lies in the layer of the particle in the middle, and how many layers there are here.

    Lengths are particle diameters.
    """

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.waves = nn.Parameter(torch.randn(2, WAVES) * 2.5)
        self.enter = nn.Linear(FEATURES, width)
        self.middle = nn.Parameter(torch.zeros(1, 1, width))
        block = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0, batch_first=True, norm_first=True)
        self.encode = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.same = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.count = nn.Linear(width, MOST_LAYERS)

    def forward(self, step: Tensor, wider: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds (n, k) of one layer, and logits (n, 3) of one, two or three layers around.

        ``step`` (n, k, 2) goes from the particle in the middle to its neighbours, ``wider`` (n, k) is of
        `compare_sizes`, and ``present`` (n, k) is False where there are fewer neighbours.
        """
        distance, phase = step.norm(dim=-1, keepdim=True), step @ self.waves
        parts = [step, distance, 1 / (distance + SOFTENING), torch.sin(phase), torch.cos(phase), wider[..., None]]
        tokens = self.enter(torch.cat(parts, dim=-1))
        tokens = torch.cat([self.middle.expand(len(tokens), -1, -1), tokens], dim=1)
        # Without a mask it takes half the time.
        absent = None if bool(present.all()) else nn.functional.pad(~present, (1, 0), value=False)
        tokens = self.encode(tokens, src_key_padding_mask=absent)
        return self.same(tokens[:, 1:])[..., 0], self.count(self.layers(tokens[:, 0]))


def find_neighbours(points: np.ndarray, some=slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Index (m, k) of the particles nearest to some particles, and which of them exist; 0 where one does not."""
    n, own = len(points), np.arange(len(points))[some]
    near = cKDTree(points).query(points[own], k=NEIGHBOURS + 1)[1]
    # Of two particles at one place either may come first.
    itself = near == own[:, None]
    itself[~itself.any(axis=1), -1] = True
    near = near[~itself].reshape(len(own), NEIGHBOURS)
    return np.where(near < n, near, 0), near < n


def compare_sizes(own, near, size: np.ndarray) -> np.ndarray:
    """How much wider each neighbour is, shape (m, k): four times the log of the ratio of diameters ``size`` (n,)."""
    size = 4 * np.log(size)
    return (size[near] - size[own][:, None]).astype(np.float32)


def load_same_layer(path: str | PathLike[str] | None = None) -> SameLayer:
    """Read the trained network, by default the shipped one."""
    from safetensors.torch import load_file

    from ..data import path as shipped

    model = SameLayer()
    model.load_state_dict(load_file(str(path or shipped("same_layer.safetensors"))))
    return model.eval()


def weigh_pairs(model: SameLayer, points: np.ndarray, size: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Symmetric log-odds (n, n) that two particles lie in one layer, and the probability (n, 3) of 1, 2, 3 layers here.

    ``points`` (n, 2) in diameters; ``size`` (n,) is each particle's diameter over the usual one.
    """
    n = len(points)
    near, present = find_neighbours(points)
    wider, step = compare_sizes(np.arange(n), near, size), (points[near] - points[:, None]).astype(np.float32)
    odds, counts = [], []
    with torch.inference_mode():
        for rows in np.array_split(np.arange(n), max(n // BATCH, 1)):
            same, count = model(*(torch.from_numpy(x[rows]) for x in (step, wider, present)))
            odds.append(same.clamp(-CERTAIN, CERTAIN).numpy())
            counts.append(count.softmax(dim=1).numpy())
    row = np.repeat(np.arange(n), NEIGHBOURS)[present.ravel()]
    graph = sparse.csr_matrix((np.concatenate(odds)[present], (row, near[present])), (n, n)).astype(float)
    return ((graph + graph.T) / 2).tocsr(), np.concatenate(counts)
