from .camera import (
    CameraConfig as CameraConfig,
    camera_mtf as camera_mtf,
    expected_electrons as expected_electrons,
    record as record,
)
from .defects import (
    dilatation_displacement as dilatation_displacement,
    dislocation_displacement as dislocation_displacement,
    grain_boundary as grain_boundary,
    twin_boundary as twin_boundary,
)
from .growth import growth_schedule as growth_schedule
from .library import (
    LibraryConfig as LibraryConfig,
    SimulatedFrame as SimulatedFrame,
    make_library as make_library,
    open_library as open_library,
    simulate_frame as simulate_frame,
)
from .liquid import (
    LiquidConfig as LiquidConfig,
    brightness_flicker as brightness_flicker,
    chromatic_blur as chromatic_blur,
    elastic_mean_free_path as elastic_mean_free_path,
    liquid_background as liquid_background,
    optical_transfer as optical_transfer,
)
from .movie import (
    MovieConfig as MovieConfig,
    SimulatedMovie as SimulatedMovie,
    make_sample as make_sample,
    scene_with_margin as scene_with_margin,
    simulate_movie as simulate_movie,
)
from .multislice import (
    GOLD_VIBRATION as GOLD_VIBRATION,
    ParticleTransmission as ParticleTransmission,
    TransmissionConfig as TransmissionConfig,
    compose_wave as compose_wave,
    crystal_slab as crystal_slab,
    exit_waves as exit_waves,
    fresnel_propagate as fresnel_propagate,
    particle_exit_wave as particle_exit_wave,
    particle_transmission as particle_transmission,
    reduce_transmission as reduce_transmission,
    tabulate_transmission as tabulate_transmission,
    through_lens as through_lens,
    vibrate as vibrate,
)
from .optics import (
    OVERSAMPLING as OVERSAMPLING,
    Lens as Lens,
    Transmission as Transmission,
    clean_image as clean_image,
    compose as compose,
    electron_wavelength as electron_wavelength,
    layer_thickness as layer_thickness,
    particle_mask as particle_mask,
)
from .random_scenes import LatticeConfig as LatticeConfig, random_scene as random_scene
from .scene import (
    Defect as Defect,
    Layer as Layer,
    Scene as Scene,
    finite as finite,
    truth_parameters as truth_parameters,
    truth_table as truth_table,
)
from .shapes import (
    SHAPES as SHAPES,
    circumscribed_ratio as circumscribed_ratio,
    lattice_constant as lattice_constant,
    nanoparticle as nanoparticle,
    particle_height as particle_height,
    particle_thickness as particle_thickness,
)
from .thermal_motion import (
    dynamical_matrix as dynamical_matrix,
    stiffness_matrix as stiffness_matrix,
    thermal_displacements as thermal_displacements,
)
