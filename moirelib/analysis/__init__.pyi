from .boundaries import BOUNDARY_COLUMNS as BOUNDARY_COLUMNS
from .correlations import (
    edge_particles as edge_particles,
    hexatic_correlation as hexatic_correlation,
    radial_distribution as radial_distribution,
    strain_map as strain_map,
)
from .defects import (
    LayerDefects as LayerDefects,
    burgers_circuit as burgers_circuit,
    find_defects as find_defects,
    follow_boundaries as follow_boundaries,
    follow_defects as follow_defects,
    orientational_twins as orientational_twins,
)
from .displacements import (
    Displacements as Displacements,
    Localization as Localization,
    autocovariance as autocovariance,
    coordination_labels as coordination_labels,
    error_variance as error_variance,
    localization_from_covariance as localization_from_covariance,
    mean_squared_displacement as mean_squared_displacement,
    site_displacements as site_displacements,
    total_variance as total_variance,
)
from .frame_tables import (
    boundary_table as boundary_table,
    defect_table as defect_table,
    lattice_table as lattice_table,
    moire_table as moire_table,
)
from .growth import (
    SitePreference as SitePreference,
    defect_numbers as defect_numbers,
    front_table as front_table,
    front_velocity as front_velocity,
    growth_events as growth_events,
    growth_rate as growth_rate,
    site_preference as site_preference,
    size_table as size_table,
)
from .lattices import (
    LatticeFit as LatticeFit,
    LayerFrame as LayerFrame,
    Tolerance as Tolerance,
    find_grains as find_grains,
    fit_lattice as fit_lattice,
    local_lattices as local_lattices,
)
from .layer_motion import (
    Relaxation as Relaxation,
    fit_relaxation as fit_relaxation,
    motion_table as motion_table,
    relative_motion as relative_motion,
)
from .moire import REGISTRY as REGISTRY, Moire as Moire, fit_moire as fit_moire, registry as registry
from .occupancy import Occupancy as Occupancy, adjacency as adjacency, site_occupancy as site_occupancy
from .phonons import (
    ElasticConstants as ElasticConstants,
    NormalModes as NormalModes,
    SpringModel as SpringModel,
    density_of_states as density_of_states,
    dispersion as dispersion,
    elastic_constants as elastic_constants,
    find_normal_modes as find_normal_modes,
    fit_springs as fit_springs,
    largest_grain as largest_grain,
    localization_bound as localization_bound,
    measure_phonons as measure_phonons,
    plane_wave_stiffness as plane_wave_stiffness,
)
from .pipeline import (
    NEEDED as NEEDED,
    TABLES as TABLES,
    Analysis as Analysis,
    analyze as analyze,
    read_particles as read_particles,
    read_recording as read_recording,
)
from .report import (
    figures as figures,
    name_files as name_files,
    render_report as render_report,
    write_analysis as write_analysis,
)
from .vibrations import (
    group_vibrations as group_vibrations,
    interlayer_correlation as interlayer_correlation,
    layer_vibrations as layer_vibrations,
    measure_vibrations as measure_vibrations,
    pn_per_um as pn_per_um,
    site_vibrations as site_vibrations,
)
