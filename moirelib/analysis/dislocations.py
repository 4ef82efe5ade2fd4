"""Dislocations of a layer and their Burgers vectors (chapter 9, "Order and defects")."""

import numpy as np
from numpy.typing import ArrayLike

from ..crystal.mesh import ROUNDING, SIXTH_TURN, Mesh, sixth_turns
from ..crystal.neighbours import connected_groups, to_complex, to_points

RING = 1.2, 3.2  # spacings around a core, where the rows' direction is measured


def find_rim(mesh: Mesh, reach: float = np.inf) -> np.ndarray:
    """Which particles lie on the edge of the triangles whose circles have a radius within reach, in spacings."""
    triangles = mesh.radius < reach * mesh.spacing
    count = np.bincount(mesh.of_triangle[0][triangles].ravel(), minlength=len(mesh.edges))
    rim = np.ones(mesh.n, bool)
    rim[mesh.triangles[triangles]] = False
    rim[mesh.edges[count == 1]] = True
    return rim


def locate_dislocations(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Cores and Burgers vectors (k, 2), in nm."""
    closure, frame = mesh.closures()
    bad = np.flatnonzero(np.abs(closure) > 0.5)
    if len(bad) == 0:
        return np.empty((0, 2)), np.empty((0, 2))
    name = _group_triangles(mesh.triangles[bad])
    rim = find_rim(mesh)
    cores, vectors = [], []
    for k in range(name.max() + 1):
        triangles = bad[name == k]
        corners = np.unique(mesh.triangles[triangles])
        total = _sum_closures(closure[triangles], frame[triangles], mesh, corners)
        if rim[corners].any() or np.abs(total[0]) < 0.5:
            continue
        for part in _split_dislocations(mesh, triangles, closure, frame, total):
            cores.append(part[0])
            vectors.append(part[1])
    return np.reshape(cores, (-1, 2)), np.reshape(vectors, (-1, 2))


def _group_triangles(items) -> np.ndarray:
    """Number of the group of each triangle; groups share items (m, 3): corners or edges."""
    used = np.unique(items, return_inverse=True)[1].reshape(items.shape)
    m = len(items)
    name = connected_groups(m + used.max() + 1, np.repeat(np.arange(m), 3), m + used.ravel())[:m]
    return np.unique(name, return_inverse=True)[1]


def _sum_closures(closure, frame, mesh, corners):
    """Burgers vector of some triangles in lattice vectors, minus the sum of their closures; and the row, in rad."""
    row = np.angle(mesh.smooth[corners].sum()) / 6
    return -np.sum(closure * sixth_turns(frame, row)), row


def _split_dislocations(mesh, triangles, closure, frame, total):
    """One dislocation, or several where a group's Burgers vector is not the shortest and edges divide it."""
    b, row = total
    if np.abs(np.abs(b) - 1) > ROUNDING:
        single = _group_triangles(mesh.of_triangle[0][triangles])
        parts = [triangles[single == k] for k in range(single.max() + 1)]
        sums = [_sum_closures(closure[t], frame[t], mesh, np.unique(mesh.triangles[t])) for t in parts]
        parts = [(t, s) for t, s in zip(parts, sums, strict=True) if np.abs(s[0]) > 0.5]
    else:
        parts = [(triangles, total)]
    for some, (vector, angle) in parts:
        center = mesh.z[mesh.triangles[some]].mean()
        row = _measure_row_around(mesh, center, angle)
        yield to_points(center), to_points(vector * mesh.spacing * np.exp(1j * row))


def _measure_row_around(mesh, center, near) -> float:
    """Row direction in a ring around a core, where the rotation that it causes averages out; next to a given one."""
    distance = np.abs(mesh.z - center)
    ring = (distance > RING[0] * mesh.spacing) & (distance < RING[1] * mesh.spacing) & np.isfinite(mesh.psi6)
    if not ring.any():
        return near
    row = np.angle(mesh.psi6[ring].sum()) / 6
    return row + SIXTH_TURN * np.rint((near - row) / SIXTH_TURN)


def burgers_circuit(points: ArrayLike, center: ArrayLike, radius: float, spacing: float | None = None) -> np.ndarray:
    """Sum (y, x) of all Burgers vectors within a circle about ``center``, in nm, along the rows at the circuit's start.

    The circuit follows the outer edge of the triangles whose centres lie within ``radius``, in nm; it may enclose a
    hole. The frame of the lattice vectors is carried along it from step to step, so it may turn by more than 30° on the
    way. With a net disclination inside it does not come back to itself, and there is no Burgers vector. ValueError if
    no triangle lies inside, or those inside do not hang together.
    """
    mesh = Mesh(points, spacing)
    middle = mesh.z[mesh.triangles].mean(axis=1) if len(mesh.triangles) else np.empty(0, complex)
    center = np.asarray(center, float)
    inside = np.flatnonzero(np.abs(middle - to_complex(np.reshape(center, (1, 2)))[0]) < radius)
    if len(inside) == 0:
        raise ValueError(f"no triangle of neighbours lies within {radius:g} nm of {np.round(center, 1).tolist()}")
    outline = _trace_outline(mesh, inside)
    name = {tuple(edge): k for k, edge in enumerate(mesh.edges.tolist())}
    total, row = 0j, mesh.angle[outline[0]]
    first = row
    for here, there in zip(outline, outline[1:] + outline[:1], strict=True):
        k = name[min(here, there), max(here, there)]
        sign = 1 if here < there else -1
        total += sign * mesh.vector[k] * sixth_turns(mesh.frame[k], row)
        row = mesh.angle[there] + SIXTH_TURN * np.rint((row - mesh.angle[there]) / SIXTH_TURN)
    return to_points(-total * mesh.spacing * np.exp(1j * first))


def _trace_outline(mesh, triangles) -> list[int]:
    """Particles along the outer edge of some triangles, in the triangles' sense."""
    run = [tuple(edge) for edge in mesh.triangles[triangles][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2).tolist()]
    ahead: dict = {}
    back = {(b, a) for a, b in run}
    for a, b in run:
        if (a, b) not in back:
            ahead.setdefault(a, []).append(b)
    outer = []
    while ahead:
        loop = [next(iter(ahead))]
        while loop[-1] in ahead:
            here = loop[-1]
            loop.append(ahead[here].pop())
            if not ahead[here]:
                del ahead[here]
        z = mesh.z[loop]
        if np.sum(np.imag(np.conj(z[:-1]) * z[1:])) > 0:  # twice the area; the edge of a hole runs the other way
            outer.append(loop[:-1])
    if len(outer) != 1:
        raise ValueError(f"the particles within the circle fall into {len(outer)} pieces; take another circle")
    return outer[0]
