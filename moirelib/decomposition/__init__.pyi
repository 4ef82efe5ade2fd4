from .completion import (
    CompletionSettings as CompletionSettings,
    complete as complete,
    settle_overlaps as settle_overlaps,
    site_odds as site_odds,
    vacant_sites as vacant_sites,
)
from .evidence import Evidence as Evidence
from .fit import FrameFit as FrameFit, refine as refine
from .frame import Found as Found, find as find
from .imaging import Imaging as Imaging
from .layers import assign_layers as assign_layers, twist_note as twist_note
from .network import (
    CENTER_WIDTH as CENTER_WIDTH,
    WORKING_DIAMETER as WORKING_DIAMETER,
    build_unet as build_unet,
    choose_device as choose_device,
    load_weights as load_weights,
    normalize as normalize,
    predict as predict,
    resample as resample,
    save_weights as save_weights,
)
from .peaks import locate as locate
from .pipeline import COLUMNS as COLUMNS, Decomposition as Decomposition, decompose as decompose
from .size import estimate_diameter as estimate_diameter
from .tracks import link as link
from .training import TrainingConfig as TrainingConfig, permutation_loss as permutation_loss, train as train
from .voting import vote as vote
