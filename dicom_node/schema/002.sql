-- Who the study is of, as received and as it is now: HL7 merges and updates, and what the PACS says, change it later.
CREATE TABLE study (
    study_instance_uid TEXT PRIMARY KEY,
    patient_id TEXT NOT NULL,
    issuer_of_patient_id TEXT NOT NULL,
    patient_name TEXT NOT NULL,        -- PN as in DICOM: groups with "=", components with "^"
    patient_birth_date TEXT NOT NULL,  -- YYYYMMDD or ''
    patient_sex TEXT NOT NULL,         -- M, F, O or ''
    accession_number TEXT NOT NULL,
    study_id TEXT NOT NULL,
    study_date TEXT NOT NULL,          -- YYYYMMDD or ''
    study_time TEXT NOT NULL,
    study_description TEXT NOT NULL,
    referring_physician_name TEXT NOT NULL,
    received TEXT NOT NULL,            -- JSON of the Identity that came with the images
    source TEXT NOT NULL,              -- of the identity now: DICOM, HL7 ADT^A08, HL7 ADT^A40, C-FIND
    updated_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX study_by_patient ON study (patient_id, issuer_of_patient_id);
CREATE INDEX study_by_date ON study (study_date);
CREATE INDEX study_by_accession ON study (accession_number) WHERE accession_number != '';

-- Every change of an identity, with both sides.
CREATE TABLE identity_change (
    id INTEGER PRIMARY KEY,
    study_instance_uid TEXT NOT NULL,
    at REAL NOT NULL,
    source TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL
) STRICT;
CREATE INDEX identity_change_by_study ON identity_change (study_instance_uid);

-- Patient IDs that were merged into others: what arrives late under the old one belongs to the new one.
CREATE TABLE patient_merge (
    prior_patient_id TEXT NOT NULL,
    prior_issuer TEXT NOT NULL,
    patient_id TEXT NOT NULL,
    issuer_of_patient_id TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (prior_patient_id, prior_issuer)
) STRICT, WITHOUT ROWID;

-- HL7 messages that were taken: the same Message Control ID of a sender is answered again and not applied again.
CREATE TABLE hl7_message (
    sender TEXT NOT NULL,
    control_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    message_type TEXT NOT NULL,
    outcome TEXT NOT NULL,             -- AA, AE, AR
    detail TEXT NOT NULL DEFAULT '',
    at REAL NOT NULL,
    PRIMARY KEY (sender, control_id)
) STRICT, WITHOUT ROWID;

-- Clinical values by patient. Nothing is overwritten: a newer row of a name counts, a withdrawn one does not.
CREATE TABLE clinical_value (
    id INTEGER PRIMARY KEY,
    patient_id TEXT NOT NULL,
    issuer_of_patient_id TEXT NOT NULL DEFAULT '',
    name TEXT NOT NULL,                -- of the bundle's predictor
    value TEXT NOT NULL,               -- JSON: a number or a text
    unit TEXT NOT NULL DEFAULT '',     -- UCUM
    observed_on TEXT NOT NULL DEFAULT '', -- ISO date, '' where not known
    source TEXT NOT NULL,              -- for people: "CSV import", "HL7 ORU^R01", "FHIR Observation", "study page"
    origin TEXT NOT NULL,              -- what makes the same value from the same place the same row
    recorded_by TEXT NOT NULL DEFAULT '',
    recorded_at REAL NOT NULL,
    withdrawn_at REAL,
    UNIQUE (patient_id, issuer_of_patient_id, name, origin)
) STRICT;
CREATE INDEX clinical_value_by_name ON clinical_value (patient_id, name, recorded_at);

-- Who may use the worklist page.
CREATE TABLE account (
    name TEXT PRIMARY KEY,
    password_hash TEXT NOT NULL,       -- argon2id, PHC string
    role TEXT NOT NULL,                -- viewer, operator
    disabled INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    locked_until REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE session (
    token_digest TEXT PRIMARY KEY,     -- SHA-256 of the cookie: the table alone opens nothing
    account TEXT NOT NULL,
    role TEXT NOT NULL,
    origin TEXT NOT NULL,              -- local, oidc
    csrf TEXT NOT NULL,
    created_at REAL NOT NULL,
    seen_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE api_token (
    digest TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    revoked_at REAL,
    used_at REAL
) STRICT, WITHOUT ROWID;

-- Who did what, by page, API or command line. Rows are only ever added.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    actor TEXT NOT NULL,
    origin TEXT NOT NULL,              -- web, api, cli, hl7, dicom
    address TEXT NOT NULL DEFAULT '',
    action TEXT NOT NULL,
    outcome TEXT NOT NULL,             -- done, refused, failed
    work_item_id INTEGER,
    study_instance_uid TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX audit_by_work_item ON audit (work_item_id) WHERE work_item_id IS NOT NULL;
CREATE INDEX audit_by_time ON audit (at);

-- Unified Procedure Steps: who wants to hear of which, and what has still to be told.
CREATE TABLE ups_subscription (
    ae_title TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,    -- of one UPS, or the well-known UID of the (filtered) worklist
    deletion_lock INTEGER NOT NULL DEFAULT 0,
    filter TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    PRIMARY KEY (ae_title, sop_instance_uid)
) STRICT, WITHOUT ROWID;
CREATE TABLE ups_report (
    id INTEGER PRIMARY KEY,
    ae_title TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    event_type_id INTEGER NOT NULL,
    information TEXT NOT NULL,         -- DICOM JSON of the Event Information
    attempts INTEGER NOT NULL DEFAULT 0,
    run_after REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL
) STRICT;
CREATE INDEX ups_report_due ON ups_report (run_after, id);

-- What an operator decides about a work item, and what its row on the worklist shows without opening a file.
ALTER TABLE work_item ADD COLUMN held INTEGER NOT NULL DEFAULT 0;   -- 1: nothing is claimed or sent until released
ALTER TABLE work_item ADD COLUMN summary TEXT;                      -- JSON: groups and scores of a scored result
ALTER TABLE work_item ADD COLUMN identity TEXT;                     -- JSON of the Identity that its objects were made under
CREATE INDEX work_item_by_update ON work_item (updated_at);
