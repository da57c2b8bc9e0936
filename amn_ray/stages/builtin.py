"""The methods that come with the package: one line each."""

from __future__ import annotations

from amn_ray.stages.advcam import stage as advcam
from amn_ray.stages.amn import stage as amn
from amn_ray.stages.backbone.stage import INITIAL_WEIGHTS
from amn_ray.stages.cam import stage as cam
from amn_ray.stages.classifier.stage import CLASSIFIER, LABEL_SCORE
from amn_ray.stages.crf import stage as crf
from amn_ray.stages.deeplabv2 import stage as deeplabv2
from amn_ray.stages.drs import stage as drs
from amn_ray.stages.given import stage as given
from amn_ray.stages.images.stage import IMAGES
from amn_ray.stages.irn import stage as irn
from amn_ray.stages.lpcam import stage as lpcam
from amn_ray.stages.methods import Method, register, register_stage
from amn_ray.stages.no_refinement import stage as no_refinement
from amn_ray.stages.pamr import stage as pamr
from amn_ray.stages.recam import stage as recam
from amn_ray.stages.rib import stage as rib
from amn_ray.stages.score.stage import SCORE
from amn_ray.stages.seam import stage as seam
from amn_ray.stages.selected_images.stage import SELECTED_IMAGES
from amn_ray.stages.smp import stage as smp
from amn_ray.stages.truth.stage import TRUTH

OURS = (
    cam.METHOD,
    advcam.METHOD,
    rib.METHOD,
    recam.METHOD,
    lpcam.METHOD,
    drs.METHOD,
    seam.METHOD,
    given.MAPS_METHOD,
    # Seeds are given, but AMN's maps are made here, and so are the seeds made of these.
    Method(group="refinement", name="given", stages={"refined": given.GIVEN_SEEDS, "amn_refined": crf.CRF}),
    given.PSEUDO_MASKS_METHOD,
    crf.METHOD,
    pamr.METHOD,
    no_refinement.METHOD,
    amn.METHOD,
    Method(group="activation", name="none"),
    irn.METHOD,
    Method(group="boundaries", name="none", instead={"pseudo_masks": "refined"}),
    Method(group="boundaries", name="ground_truth", instead={"pseudo_masks": "truth"}, choices={"activation": "none"}),
    deeplabv2.METHOD,
    smp.METHOD,
    crf.PREDICTION_METHOD,
    Method(group="prediction_refinement", name="none"),
)
for _stage in (IMAGES, TRUTH, SELECTED_IMAGES, INITIAL_WEIGHTS, CLASSIFIER, SCORE, LABEL_SCORE):  # not chosen by name
    register_stage(_stage)
for _method in OURS:
    register(_method)
