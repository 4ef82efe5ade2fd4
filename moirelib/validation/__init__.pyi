from .composition_error import (
    Comparison as Comparison,
    compare_with_multislice as compare_with_multislice,
    overlapping_clusters as overlapping_clusters,
)
from .image_statistics import (
    average_particle as average_particle,
    background_spectrum as background_spectrum,
    frame_statistics as frame_statistics,
    noise_autocorrelation as noise_autocorrelation,
    noise_spectra as noise_spectra,
    particle_contrast as particle_contrast,
)
from .precision_bound import cramer_rao_bound as cramer_rao_bound
from .real_frame import (
    REAL_PIXEL_SIZE as REAL_PIXEL_SIZE,
    REAL_SPACING as REAL_SPACING,
    SemiRealMoire as SemiRealMoire,
    leaning_columns as leaning_columns,
    real_frame_lattice as real_frame_lattice,
    real_frame_twin as real_frame_twin,
    semi_real_moire as semi_real_moire,
)
from .scores import (
    mask_iou as mask_iou,
    score_events as score_events,
    score_layers as score_layers,
    score_particles as score_particles,
)
