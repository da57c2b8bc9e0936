"""A plug-in of amn-ray: `maps=lse`, `refinement=majority`, and the metric `frequency_weighted_iou`.

What is here runs in every process that uses the plug-in, so it imports no PyTorch.
"""

from amn_ray.evaluation.metrics import register as register_metric
from amn_ray.stages.methods import register as register_method
from lse_seeds.lse.stage import METHOD as LSE
from lse_seeds.majority.stage import METHOD as MAJORITY
from lse_seeds.metrics import frequency_weighted_iou

register_method(LSE)
register_method(MAJORITY)
register_metric("frequency_weighted_iou", frequency_weighted_iou)
