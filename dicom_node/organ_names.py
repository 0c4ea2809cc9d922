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
    "dorsal", "oar", "the", "av", "lobe", "l", "r",
    "normal", "healthy", "rest", "ipsi", "contra", "ipsilateral", "contralateral",
    "z",  # TG-263: before what is no structure of its own
    "links", "rechts", "linke", "rechte", "li", "re", "gauche", "droit", "droite", "izquierdo", "derecho", "sinistro",
    "destro", "dx", "sx",
})  # fmt: skip
# Without separators and without the plural's s; what stands in several pieces there is one word here.
_ORGANS = frozenset({
    # of the trunk
    "heart", "atrium", "ventricle", "pericardium", "greatve", "greatvessel", "aorta", "aaorta", "apulm", "vvenacava",
    "vvenacavai", "venacava", "svc", "ivc", "acoronary", "lad", "alad", "valve", "lung", "trachea", "bronchu",
    "bronchi", "bronchialtree", "bronchialtreeprox", "carina", "pbt", "airway", "esophagu", "oesophagu", "mediastinum",
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
    # heart, lung, liver, spinal cord and oesophagus in German, French, Spanish and Italian
    "herz", "lunge", "lungen", "leber", "ruckenmark", "rueckenmark", "speiserohre", "speiseroehre",
    "coeur", "poumon", "foie", "moelle", "moelleepiniere", "oesophage",
    "corazon", "pulmon", "pulmone", "higado", "medula", "medulaespinal", "esofago",
    "cuore", "polmone", "polmoni", "fegato", "midollo", "midollospinale",
    # not of the patient alone, and margins
    "body", "external", "skin", "patient", "couch", "couchsurface", "couchinterior", "table", "bolu", "avoid",
    "marker", "fiducial", "isocenter", "isocentre", "ptv", "ctv",
})  # fmt: skip
# What of an organ is not meant ("Lungs-GTV", "Liver minus tumour"), and TG-263's own suffix.
_CUT_OUT = re.compile(
    r"\^|minus|without|w/o|excl|subtract|ohne|sans|senza|(?<![^\W_])(?:less|not)(?![^\W_])"
    r"|[-\u2010-\u2015\u2212][\s_(]*(?:primary[\s_]*)?"
    r"(?:i?[gcpi]tv|tumou?r|lesion|mass|neoplasm|nodule|met(?:s|astas[ei]s)?(?![^\W_]))",
    re.IGNORECASE,
)
# What makes an organ one for planning ("Heart_opt", "Lung_eval", "SpinalCord_PRV05", "Heart2mm").
_PLANNING = re.compile(
    r"(?<![^\W\d_])(?:opt|eval|planning|plan|prv)(?:[\W_]*\d+)?(?![^\W_])|\+?\s*\d+(?:[.,]\d+)?\s*[mc]m(?![^\W_])"
)
# These come by numbers; an organ with one ("Lung 1") may be a tumour's name.
_NUMBERED = re.compile(r"(?<![^\W\d_])([cp]tv|ribs?|vb|vertebrae?|bolus|marker|fiducial|avoid)[\W_]*[ctls]?\d[\d.,]*")
# A tumour's word with one of these is not the tumour as it was drawn.
_AROUND = re.compile(
    r"(?<![^\W\d_])(?:i?[cpi]tv|ring|shell|margin)(?![^\W\d_])|\+\s*\d+(?:[.,]\d+)?\s*[mc]m"
    r"|(?:muscle|fat|lean|body)[\W_]*mass|minus|without|excl|subtract|ohne|peri[\W_]*tumou?r|healthy|(?<!ab)normal"
)


def is_organ(name: str) -> bool:
    """Whether a name of an ROI or segment is one of these and nothing else: "Lung tumour" and "Lung T1" are not.

    >>> [is_organ(name) for name in ("Heart", "LUNG_L", "Lungs-Tumor", "Spinal Cord", "~Liver", "SpinalCord_PRV05")]
    [True, True, True, True, True, True]
    >>> [is_organ(name) for name in ("GTV-1", "Lung tumour", "Liver met 2", "Lung 1", "LungT", "Bodyguard", "")]
    [False, False, False, False, False, False, False]
    """
    text = _words(_CUT_OUT.split(_text(name))[0])
    text = _NUMBERED.sub(r"\1", _PLANNING.sub(" ", text))
    whole = "".join(word for word in re.findall(r"[^\W\d_]+|\d+", text) if word not in _SIDES)
    return any(one in _ORGANS for one in (whole, whole.removesuffix("s"), *_sided(whole)))


def meant(name: str) -> str:
    """What of a name may be the tumour's: of an organ without its tumour, the organ alone.

    >>> [meant(name) for name in ("Lungs minus tumour", "Liver - lesion", "GTV-1", "Lung tumour")]
    ['Lungs', 'Liver', 'GTV-1', 'Lung tumour']
    """
    text = _text(name)
    front = _CUT_OUT.split(text)[0]
    return front.rstrip(" _(") if is_organ(front) else text


def is_around(name: str) -> bool:
    """Whether a name says that a margin is part of it, or what it is drawn around.

    >>> [is_around(name) for name in ("PTV_tumour", "Ring_tumour+5mm", "GTV-1 PTV", "gtv+5mm", "Muscle mass")]
    [True, True, True, True, True]
    >>> [is_around(name) for name in ("GTV-1", "Lung mass", "tumour 5mm")]
    [False, False, False]
    """
    return _AROUND.search(_words(_text(name))) is not None


def _text(name: str) -> str:
    return unicodedata.normalize("NFKC", name[:LONGEST_NAME]).strip()[:LONGEST_NAME]


def _words(text: str) -> str:
    """In small letters, apart and without accents: HeartLt, SpinalCord, Rückenmark."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).casefold().replace("\u0153", "oe")
    return "".join(one for one in unicodedata.normalize("NFKD", apart) if not unicodedata.combining(one))


def _sided(whole: str) -> list[str]:
    """Without a side that is written together with the organ: LLUNG, LUNGL."""
    return [text.removesuffix("s") for text in (whole.removeprefix("l"), whole.removeprefix("r"), whole.rstrip("lr"))]
