"""Names that plainly are an organ at risk, a margin or an aid: never the tumour where no name of the site decides.

Structure names of AAPM TG-263 (Mayo et al. 2018, doi:10.1016/j.ijrobp.2017.12.013) for the trunk, neck and head, as
people vary them: case, separators, side, number. A site's own words go into [plan] roi_exclude_patterns. Leaf.
"""

import re
import unicodedata

LONGEST_NAME = 64  # VR LO
_SIDES = frozenset({
    "lt", "rt", "left", "right", "lul", "lll", "rul", "rml", "rll", "lingula", "bilat", "bilateral", "both",
    "total", "whole", "all", "ant", "post", "sup", "inf", "upper", "lower", "middle", "prox", "dist", "proximal",
    "dorsal", "oar", "prv", "the", "av", "lobe",
})  # fmt: skip
# Without separators and without the plural's s; what stands in several pieces there is one word here.
_ORGANS = frozenset({
    # of the trunk
    "heart", "atrium", "ventricle", "pericardium", "greatve", "greatvessel", "aorta", "aaorta", "apulm", "vvenacava",
    "venacava", "svc", "ivc", "acoronary", "lad", "alad", "valve", "lung", "trachea", "bronchu", "bronchi",
    "bronchialtree", "bronchialtreeprox", "carina", "pbt", "airway", "esophagu", "oesophagu", "mediastinum",
    "diaphragm", "chestwall", "thoraxwall", "ribcage", "rib", "sternum", "breast", "breastimplant", "implant", "thymu",
    "liver", "spleen", "kidney", "renal", "adrenal", "glndadrenal", "stomach", "duodenum", "bowel", "bagbowel",
    "bowelbag", "bowelsmall", "smallbowel", "bowellarge", "largebowel", "spcbowel", "colon", "rectum", "pancrea",
    "gallbladder", "bladder", "prostate", "uteru", "ovary", "testi", "femur", "femurhead", "headfemur",
    "pelvi", "bone", "vertebra", "vertebrae", "vb", "spine", "spinalcord", "spinalcanal", "canalspinal", "cord",
    "cauda", "caudaequina", "myelon", "brachialplexu", "brachplexu", "clavicle", "scapula", "humeru", "muscle", "fat",
    # of the neck and head
    "thyroid", "glndthyroid", "larynx", "pharynx", "constrictor", "muscconstrict", "parotid", "submandibular",
    "glndsubmand", "mandible", "bonemandible", "oralcavity", "cavityoral", "tongue", "lip", "brain", "brainstem",
    "cerebellum", "opticchiasm", "opticchiasma", "chiasm", "opticnrv", "opticnerve", "eye", "lens", "len", "cochlea",
    "hippocampu", "pituitary",
    # not of the patient alone, and margins
    "body", "external", "skin", "patient", "couch", "couchsurface", "couchinterior", "table", "bolu", "avoid",
    "marker", "fiducial", "isocenter", "isocentre", "ptv", "ctv",
})  # fmt: skip


def is_organ(name: str) -> bool:
    """Whether a name of an ROI or segment is one of these and nothing else: "Lung tumour" is not.

    >>> [is_organ(name) for name in ("Heart", "LUNG_L", "Lungs-GTV", "Spinal Cord", "~Liver", "SpinalCord_PRV05")]
    [True, True, True, True, True, True]
    >>> [is_organ(name) for name in ("GTV-1", "Lung tumour", "Liver met 2", "ROI-1", "Bodyguard", "")]
    [False, False, False, False, False, False]
    """
    text = unicodedata.normalize("NFKC", name[:LONGEST_NAME])[:LONGEST_NAME]
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).casefold()  # HeartLt, SpinalCord
    text = re.split(r"\^|-\s*[gcpi]tv|\b(?:minus|without)\b", text)[0]  # TG-263: own suffix; what is cut out
    words = [word for word in re.findall(r"[^\W\d_]+", text) if len(word) > 1 and word not in _SIDES]
    whole = "".join(words)
    return any(one in _ORGANS for one in (whole, whole.removesuffix("s"), *_sided(whole)))


def _sided(whole: str) -> list[str]:
    """Without a side that is written together with the organ: LLUNG, LUNGL."""
    return [text.removesuffix("s") for text in (whole.removeprefix("l"), whole.removeprefix("r"), whole.rstrip("lr"))]
