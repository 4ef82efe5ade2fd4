# The public names of moirelib, a line each; what else is public is listed in the __init__.pyi of each package.
__version__: str

from . import (
    data as data,  # shipped sample and weights; real data fetched from where it was published
    plot as plot,  # figures: show_frame, show_layers, show_particles, ...
)
from .analysis import (
    Analysis as Analysis,  # tables of everything that a particle table supports
    analyze as analyze,  # particle table -> Analysis
    find_defects as find_defects,  # points of a layer -> vacancies, dislocations, boundaries
    find_grains as find_grains,  # points of a layer -> grain of each
    fit_moire as fit_moire,  # two layers -> twist, Moiré period, offset, with errors
    growth_events as growth_events,  # occupancy of sites -> attachments and detachments
    measure_phonons as measure_phonons,  # tracks -> dispersion of plane waves
    measure_vibrations as measure_vibrations,  # tracks -> amplitude and spring constant of each site
    read_particles as read_particles,  # folder or CSV file -> particle table
)
from .crystal import find_lattice as find_lattice  # points -> strongest hexagonal lattice
from .decomposition import (
    Decomposition as Decomposition,  # layers, particles and summary of a movie
    TrainingConfig as TrainingConfig,  # what a training is made of
    decompose as decompose,  # movie -> Decomposition
    load_weights as load_weights,  # weights file -> network
    train as train,  # library -> weights
)
from .movies import (
    Movie as Movie,  # frames, pixel size, frame time
    read_movie as read_movie,  # file -> Movie
)
from .simulation import (
    LatticeConfig as LatticeConfig,  # what random layers are made of
    LibraryConfig as LibraryConfig,  # what a training library is made of
    Scene as Scene,  # stacked layers of nanoparticles
    clean_image as clean_image,  # Scene -> image without noise
    make_library as make_library,  # LibraryConfig -> training library (Zarr)
    random_scene as random_scene,  # LatticeConfig -> Scene
    simulate_movie as simulate_movie,  # configuration -> movie with its truth
)
from .validation import (
    score_particles as score_particles,  # particles against their truth
    semi_real_moire as semi_real_moire,  # real single layer -> Moiré image with known layers
)
