"""The cohort file that goes with a synthetic cohort."""

from analysis.train.synth.outcomes import Mode

COHORT_TOML = """\
# SYNTHETIC - NOT FOR CLINICAL USE. Made by `prognode cohort synth`; generator digest {digest}.
# `prognode train` reads this file; the comments say what each key means.

[cohort]
name = "synthetic-{count}-{mode}"
table = "patients.csv"          # beside this file
patient_id = "patient_id"       # column; one row per patient
synthetic = true
seed = {seed}
truth = "truth.json"            # oracle risks, printed beside the results and never used to train

[outcomes.OS]                   # time to death of any cause
time = "os_days"
event = "os_event"              # 1 event, 0 censored
unit = "days"                   # days or months

[outcomes.PFS]                  # time to progression or death
time = "pfs_days"
event = "pfs_event"
unit = "days"

# The allow-list: a column that is not named here is never a predictor.
[clinical]
minimum = ["age", "ecog", "nlr"]

[[clinical.predictors]]
name = "age"
label = "Age"
type = "number"
unit = "a"
minimum = 18
maximum = 110

[[clinical.predictors]]
name = "sex"
label = "Sex"
type = "category"
categories = ["F", "M"]

[[clinical.predictors]]
name = "ecog"
label = "ECOG performance status"
type = "number"
minimum = 0
maximum = 4

[[clinical.predictors]]
name = "nlr"
label = "Neutrophil-to-lymphocyte ratio"
type = "number"
transform = "log"
minimum = 0.1
maximum = 100

[[clinical.predictors]]
name = "albumin"
label = "Albumin"
type = "number"
unit = "g/L"
minimum = 10
maximum = 60

[[clinical.predictors]]
name = "pdl1"
label = "PD-L1 tumour proportion score"
type = "number"
unit = "%"
minimum = 0
maximum = 100

[[clinical.predictors]]
name = "liver_metastases"
label = "Liver metastases"
type = "boolean"

[images]                        # columns that hold paths, relative to this file
ct = "ct"
roi = "roi"

[extraction]                    # absent keys take the defaults of analysis/settings.py
spacing_mm = [2.0, 2.0, 2.0]

[training]
horizons_months = [12, 36]
folds = 5
repeats = 5
bootstrap = 100

[bundle]
name = "{name}"
version = "1.0.0"
"""

_SITE = """\
site = "site"                   # column; hospital or scanner, for leave-one-site-out
"""

_LEAK = """\
[[clinical.predictors]]         # a trap: known only after the outcome; training must refuse it
name = "cycles_received"
label = "Treatment cycles received"
type = "number"
minimum = 0
maximum = 200

"""


def cohort_toml(count: int, seed: int, mode: Mode, digest: str) -> str:
    """Text of cohort.toml; `digest` is the generator's."""
    text = COHORT_TOML.format(count=count, seed=seed, mode=mode, digest=digest, name=f"synthetic-{mode}-{count}")
    if mode == "site-shift":
        text = text.replace("synthetic = true\n", _SITE + "synthetic = true\n", 1)
    if mode == "leak":
        text = text.replace("[images]", _LEAK + "[images]", 1)
    return text
