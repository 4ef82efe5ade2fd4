from .axes import LAYER_COLORS as LAYER_COLORS, OUTLINES as OUTLINES
from .curves import (
    show_dispersion as show_dispersion,
    show_fronts as show_fronts,
    show_msd as show_msd,
    show_sizes as show_sizes,
)
from .frames import (
    animate_tracks as animate_tracks,
    show_frame as show_frame,
    show_layers as show_layers,
    show_library as show_library,
    show_particles as show_particles,
    show_split as show_split,
    show_tracks as show_tracks,
    write_track_movie as write_track_movie,
)
from .maps import (
    show_amplitudes as show_amplitudes,
    show_boundaries as show_boundaries,
    show_defects as show_defects,
    show_displacements as show_displacements,
    show_events as show_events,
    show_hexatic as show_hexatic,
    show_map as show_map,
    show_registry as show_registry,
    show_strain as show_strain,
    show_vectors as show_vectors,
)
