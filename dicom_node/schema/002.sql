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
CREATE INDEX study_by_update ON study (updated_at);

-- Studies that came before studies had a row above, until they have one. What arrives now brings its own.
CREATE TABLE study_unidentified (study_instance_uid TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO study_unidentified SELECT DISTINCT study_instance_uid FROM instance WHERE own = 0;
CREATE TRIGGER study_identified AFTER INSERT ON study BEGIN
    DELETE FROM study_unidentified WHERE study_instance_uid = new.study_instance_uid;
END;

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
    exact INTEGER NOT NULL,            -- 1: only where the issuer is stated: not the ID that the PACS files by
    digest TEXT NOT NULL,              -- identity.patient_digest of the prior ID with its issuer, as instances have it
    bare_digest TEXT NOT NULL,         -- of the prior ID alone; '' where exact
    at REAL NOT NULL,
    PRIMARY KEY (prior_patient_id, prior_issuer)
) STRICT, WITHOUT ROWID;
CREATE INDEX patient_merge_by_digest ON patient_merge (digest);
CREATE INDEX patient_merge_by_bare_digest ON patient_merge (bare_digest) WHERE bare_digest != '';
CREATE INDEX patient_merge_into ON patient_merge (patient_id);

-- HL7 messages that were taken: the same Message Control ID of a sender is answered again and not applied again.
CREATE TABLE hl7_message (
    sender TEXT NOT NULL,
    control_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    message_type TEXT NOT NULL,
    detail TEXT NOT NULL DEFAULT '',
    at REAL NOT NULL,
    PRIMARY KEY (sender, control_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX hl7_message_by_time ON hl7_message (at);

-- Clinical values by patient. Nothing is overwritten: a row ends when another takes its place or it is withdrawn.
CREATE TABLE clinical_value (
    id INTEGER PRIMARY KEY,
    patient_id TEXT NOT NULL,
    issuer_of_patient_id TEXT NOT NULL,
    name TEXT NOT NULL,                -- of a predictor, or of a variable in clinical_codes.toml
    value TEXT NOT NULL,               -- JSON: a number or a text
    unit TEXT NOT NULL,                -- UCUM
    stated TEXT NOT NULL,              -- as its source stated it, where that was another unit: "3.9 g/dL"
    observed_on TEXT NOT NULL,         -- ISO date, '' where not known
    kind TEXT NOT NULL,                -- form, hl7, fhir, csv
    source TEXT NOT NULL,              -- for people: "CSV import", "HL7 ORU^R01", "FHIR Observation", "study page"
    origin TEXT NOT NULL,              -- the place at the source; what comes from there later takes this one's place
    as_of REAL,                        -- when the source said it, where it says so
    recorded_by TEXT NOT NULL,
    recorded_at REAL NOT NULL,
    ended_at REAL,
    ended_how TEXT NOT NULL DEFAULT '',-- replaced, retracted (by its source), withdrawn (by an operator)
    ended_by TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX clinical_value_now ON clinical_value (patient_id, issuer_of_patient_id, name, origin)
    WHERE ended_at IS NULL;
CREATE INDEX clinical_value_by_place ON clinical_value (patient_id, issuer_of_patient_id, name, origin, id);

-- Patients whose values have changed since the worker last compared them with what was scored.
CREATE TABLE clinical_change (
    patient_id TEXT NOT NULL,
    issuer_of_patient_id TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (patient_id, issuer_of_patient_id)
) STRICT, WITHOUT ROWID;

-- Work items whose score would use other clinical values now.
CREATE TABLE clinical_newer (
    work_item_id INTEGER PRIMARY KEY,
    names TEXT NOT NULL,               -- of the predictors, with commas
    at REAL NOT NULL
) STRICT;

-- Patients whom a FHIR server is asked about, and what came of it.
CREATE TABLE clinical_pull (
    patient_id TEXT NOT NULL,
    issuer_of_patient_id TEXT NOT NULL,
    server TEXT NOT NULL,
    wanted_at REAL NOT NULL,           -- when the study that asks began to wait
    answered_at REAL,                  -- of the last complete answer
    attempts INTEGER NOT NULL DEFAULT 0,
    run_after REAL NOT NULL DEFAULT 0,
    detail TEXT NOT NULL DEFAULT '',   -- why not, without PHI
    PRIMARY KEY (patient_id, issuer_of_patient_id, server)
) STRICT, WITHOUT ROWID;

-- Who may use the worklist page.
CREATE TABLE account (
    name TEXT PRIMARY KEY,
    password_hash TEXT NOT NULL,       -- argon2id, PHC string
    role TEXT NOT NULL,                -- viewer, operator
    disabled INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
-- Failed sign-ins by account and by address. A name that no account has is counted like one that is taken.
CREATE TABLE signin_throttle (
    subject TEXT PRIMARY KEY,          -- SHA-256: people type passwords into the field of the name
    failures INTEGER NOT NULL,
    locked_until REAL NOT NULL,
    at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX signin_throttle_by_time ON signin_throttle (at);
CREATE TABLE session (
    token_digest TEXT PRIMARY KEY,     -- SHA-256 of the cookie: the table alone opens nothing
    account TEXT NOT NULL,             -- of a local user, whose row has the role; or "oidc:<name>"
    role TEXT NOT NULL,                -- by the provider's claim at sign-in
    csrf TEXT NOT NULL,
    created_at REAL NOT NULL,
    seen_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX session_by_account ON session (account);
CREATE TABLE api_token (
    digest TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    revoked_at REAL,
    used_at REAL
) STRICT, WITHOUT ROWID;

-- Who did what, by page, API, network or command line. A row gets its line in the audit trail's file and never changes.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    actor TEXT NOT NULL,
    origin TEXT NOT NULL,              -- web, api, cli, hl7, dicom, node
    address TEXT NOT NULL DEFAULT '',
    action TEXT NOT NULL,
    outcome TEXT NOT NULL,             -- done, refused, failed
    work_item_id INTEGER,
    study_instance_uid TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT '',
    facts TEXT NOT NULL DEFAULT '',    -- JSON: what the audit message says beside (peer, SOP classes, query ...)
    line INTEGER,                      -- number of its line in the trail; NULL: not yet written
    line_digest TEXT                   -- SHA-256 of that line: what `prognode audit verify` holds the file against
) STRICT;
CREATE INDEX audit_by_work_item ON audit (work_item_id) WHERE work_item_id IS NOT NULL;
CREATE INDEX audit_unwritten ON audit (id) WHERE line IS NULL;
CREATE UNIQUE INDEX audit_by_line ON audit (line) WHERE line IS NOT NULL;
CREATE INDEX audit_by_time ON audit (at);

-- Files of the audit trail, the last of them open: where each ends, so that a cut one is told from a whole one.
CREATE TABLE audit_file (
    first INTEGER PRIMARY KEY,         -- number of its first line, and its name
    previous TEXT NOT NULL,            -- digest of the line before its first
    last INTEGER NOT NULL,             -- number of its last line; first - 1: it has none yet
    digest TEXT NOT NULL,              -- of its last line
    bytes INTEGER NOT NULL,            -- what lies beyond was being written when the node ended
    closed_at REAL,
    removed INTEGER NOT NULL DEFAULT 0 -- 1: retention is removing it
) STRICT;
-- How far a collector certainly has the lines.
CREATE TABLE audit_sent (
    collector TEXT PRIMARY KEY,
    line INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Unified Procedure Steps (PS3.4 CC): each work item as other AEs see it, made by following the event table, whose
-- rows stand in the transaction of the change itself. `ups_cursor` is how far it has been followed.
CREATE TABLE ups (
    work_item_id INTEGER PRIMARY KEY,
    sop_instance_uid TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,               -- Procedure Step State
    readiness TEXT NOT NULL,           -- Input Readiness State
    modified_at REAL NOT NULL,
    progress INTEGER NOT NULL,         -- per cent
    description TEXT NOT NULL,
    started_at REAL,
    ended_at REAL,
    reason TEXT NOT NULL               -- why it was canceled
) STRICT;
CREATE INDEX ups_by_state ON ups (state, work_item_id);
CREATE TABLE ups_cursor (id INTEGER PRIMARY KEY CHECK (id = 1), event_id INTEGER NOT NULL) STRICT;

-- Who hears of which steps, and what has still to be told, in its order.
CREATE TABLE ups_subscriber (
    ae_title TEXT PRIMARY KEY,
    worklist TEXT,                     -- NULL: of single steps only; '': of every new one; else JSON of matching keys
    worklist_lock INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    run_after REAL NOT NULL DEFAULT 0,
    detail TEXT NOT NULL DEFAULT ''    -- why the last attempt failed
) STRICT, WITHOUT ROWID;
CREATE TABLE ups_subscription (
    work_item_id INTEGER NOT NULL,
    ae_title TEXT NOT NULL,
    deletion_lock INTEGER NOT NULL,
    PRIMARY KEY (work_item_id, ae_title)
) STRICT, WITHOUT ROWID;
CREATE INDEX ups_subscription_by_ae ON ups_subscription (ae_title);
CREATE TABLE ups_report (
    id INTEGER PRIMARY KEY,
    ae_title TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    event_type_id INTEGER NOT NULL,
    information TEXT NOT NULL,         -- JSON of what the Event Information says
    created_at REAL NOT NULL
) STRICT;
CREATE INDEX ups_report_by_ae ON ups_report (ae_title, id);

-- What an operator decides about a work item, and what its row on the worklist shows without opening a file.
ALTER TABLE work_item ADD COLUMN held INTEGER NOT NULL DEFAULT 0;   -- 1: nothing is claimed or sent until released
ALTER TABLE work_item ADD COLUMN summary TEXT;                      -- JSON: groups and scores of a scored result
ALTER TABLE work_item ADD COLUMN identity TEXT;                     -- JSON of the Identity that its objects were made under
-- 1: by a rule, nothing of it is sent, and nobody outside is told (FHIR, UPS).
ALTER TABLE work_item ADD COLUMN shadow INTEGER NOT NULL DEFAULT 0;
CREATE INDEX work_item_by_update ON work_item (updated_at);
CREATE INDEX work_item_by_predecessor ON work_item (predecessor_key) WHERE predecessor_key IS NOT NULL;

-- Retention: the rows stay when their files go, so that what is sent again is known and makes no second result.
ALTER TABLE instance ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;  -- retention.Removed: 0 here, 1 going, 2 gone
ALTER TABLE instance ADD COLUMN association TEXT NOT NULL DEFAULT '';-- that brought it, until the audit has its row
CREATE INDEX instance_here ON instance (received_at, study_instance_uid) WHERE removed = 0;
CREATE INDEX instance_going ON instance (id) WHERE removed = 1;
CREATE INDEX instance_unaudited ON instance (association) WHERE association != '';
ALTER TABLE work_item ADD COLUMN results_removed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE work_item ADD COLUMN documents TEXT;                    -- JSON: the SRs of removed results, for a successor
CREATE INDEX work_item_going ON work_item (id) WHERE results_removed = 1;
CREATE INDEX work_item_with_results ON work_item (updated_at, id) WHERE results_removed = 0 AND key IS NOT NULL;
-- The worklist: each filter and each order has an index, so that a page takes milliseconds however long the list is.
ALTER TABLE work_item ADD COLUMN risk_group TEXT GENERATED ALWAYS AS (json_extract(summary, '$.group')) VIRTUAL;
CREATE INDEX work_item_by_creation ON work_item (created_at);
CREATE INDEX work_item_by_priority ON work_item (priority, id);
CREATE INDEX work_item_held ON work_item (id) WHERE held = 1;
CREATE INDEX work_item_by_result ON work_item (state, outcome, risk_group);
CREATE INDEX study_by_name ON study (patient_name);

-- Search by the beginning of a word of a name in any script, of an ID or an accession number. Kept by the triggers.
CREATE TABLE study_number (id INTEGER PRIMARY KEY, study_instance_uid TEXT NOT NULL UNIQUE) STRICT;
CREATE VIRTUAL TABLE study_search USING fts5 (
    patient_name, patient_id, accession_number,
    prefix = '1 2 3', detail = 'full', tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER study_search_insert AFTER INSERT ON study BEGIN
    INSERT INTO study_number (study_instance_uid) VALUES (new.study_instance_uid);
    INSERT INTO study_search (rowid, patient_name, patient_id, accession_number)
        SELECT id, new.patient_name, new.patient_id, new.accession_number FROM study_number
        WHERE study_instance_uid = new.study_instance_uid;
END;
CREATE TRIGGER study_search_update AFTER UPDATE OF patient_name, patient_id, accession_number ON study BEGIN
    UPDATE study_search SET patient_name = new.patient_name, patient_id = new.patient_id,
        accession_number = new.accession_number
        WHERE rowid = (SELECT id FROM study_number WHERE study_instance_uid = new.study_instance_uid);
END;
CREATE TRIGGER study_search_delete AFTER DELETE ON study BEGIN
    DELETE FROM study_search WHERE rowid = (SELECT id FROM study_number WHERE study_instance_uid = old.study_instance_uid);
    DELETE FROM study_number WHERE study_instance_uid = old.study_instance_uid;
END;

-- What each process says of itself, and when a peer was last heard of: for the system page.
CREATE TABLE node_status (
    component TEXT PRIMARY KEY,        -- work
    version TEXT NOT NULL,
    started_at REAL NOT NULL,
    seen_at REAL NOT NULL,
    facts TEXT NOT NULL                -- JSON
) STRICT, WITHOUT ROWID;
CREATE TABLE peer_contact (
    peer TEXT NOT NULL,                -- AE title, or the destination of a message
    kind TEXT NOT NULL,                -- received, delivered, echo
    at REAL NOT NULL,
    well INTEGER NOT NULL DEFAULT 1,
    detail TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (peer, kind)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER peer_contact_received AFTER INSERT ON instance BEGIN
    INSERT OR REPLACE INTO peer_contact (peer, kind, at) VALUES (new.calling_ae_title, 'received', new.received_at);
END;
CREATE TRIGGER peer_contact_delivered AFTER UPDATE OF sent_at ON delivery WHEN new.sent_at IS NOT NULL BEGIN
    INSERT OR REPLACE INTO peer_contact (peer, kind, at) VALUES (new.destination, 'delivered', new.sent_at);
END;

-- Work items by state, kept by triggers: counting a million rows takes a quarter of a second, and the page asks often.
CREATE TABLE state_count (state TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO state_count SELECT state, count(*) FROM work_item GROUP BY state;
CREATE TRIGGER state_count_born AFTER INSERT ON work_item BEGIN
    INSERT INTO state_count VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER state_count_moved AFTER UPDATE OF state ON work_item WHEN new.state != old.state BEGIN
    UPDATE state_count SET n = n - 1 WHERE state = old.state;
    INSERT INTO state_count VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER state_count_gone AFTER DELETE ON work_item BEGIN
    UPDATE state_count SET n = n - 1 WHERE state = old.state;
END;
