from .atoms import to_atoms as to_atoms
from .completion import (
    CompletionSettings as CompletionSettings,
    complete as complete,
    settle_overlaps as settle_overlaps,
    site_odds as site_odds,
    vacant_sites as vacant_sites,
)
from .frame import Found as Found, find as find
from .layer_assignment import assign_layers as assign_layers
from .layer_count import (
    Hypothesis as Hypothesis,
    LayerCountRules as LayerCountRules,
    SharedByFrames as SharedByFrames,
    choose_hypothesis as choose_hypothesis,
)
from .layer_evidence import Evidence as Evidence
from .layer_voting import vote as vote
from .movie_motion import MovieMotion as MovieMotion, measure_motion as measure_motion
from .network import (
    CENTER_WIDTH as CENTER_WIDTH,
    WORKING_DIAMETER as WORKING_DIAMETER,
    build_unet as build_unet,
    choose_device as choose_device,
    load_weights as load_weights,
    locate as locate,
    normalize as normalize,
    predict as predict,
    resample as resample,
    save_weights as save_weights,
)
from .particle_fit import FrameFit as FrameFit
from .particle_size import estimate_diameter as estimate_diameter
from .pipeline import COLUMNS as COLUMNS, Decomposition as Decomposition, decompose as decompose
from .profile_and_blur import Imaging as Imaging
from .same_layer import SameLayer as SameLayer, load_same_layer as load_same_layer, weigh_pairs as weigh_pairs
from .same_layer_training import draw_points as draw_points, train_same_layer as train_same_layer
from .signed_graph import cut as cut, find_groups as find_groups
from .summary import twist_note as twist_note
from .training import (
    LibraryCrops as LibraryCrops,
    TrainingConfig as TrainingConfig,
    permutation_loss as permutation_loss,
    train as train,
)
