from .fourier import find_lattice as find_lattice
from .lattice import (
    Lattice as Lattice,
    SymmetryPath as SymmetryPath,
    brillouin_zone as brillouin_zone,
    coincidence_period as coincidence_period,
    commensurate_angles as commensurate_angles,
    fold_hexagonal as fold_hexagonal,
    hexagonal_lattice as hexagonal_lattice,
    moire_period as moire_period,
    symmetry_path as symmetry_path,
    unit_vectors as unit_vectors,
)
from .matching import assign_pairs as assign_pairs, match as match, pair_mutually_nearest as pair_mutually_nearest
from .mesh import (
    SIXTH_TURN as SIXTH_TURN,
    THREE_SHELLS as THREE_SHELLS,
    LocalLattices as LocalLattices,
    Mesh as Mesh,
    lattices_around as lattices_around,
    nearest_vector as nearest_vector,
    sixth_turns as sixth_turns,
)
from .motion import Motion as Motion, MotionEstimate as MotionEstimate, estimate_motion as estimate_motion
from .neighbours import (
    NEIGHBOUR_REACH as NEIGHBOUR_REACH,
    SPACING_PER_DIAMETER as SPACING_PER_DIAMETER,
    adjacency as adjacency,
    bonds as bonds,
    check_points as check_points,
    connected_groups as connected_groups,
    extent as extent,
    freud_system as freud_system,
    hexatic as hexatic,
    nearest_spacing as nearest_spacing,
    neighbour_spacing as neighbour_spacing,
    rows_of_three as rows_of_three,
    spans_plane as spans_plane,
    to_complex as to_complex,
    to_points as to_points,
    typical_spacing as typical_spacing,
)
