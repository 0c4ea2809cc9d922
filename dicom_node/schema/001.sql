-- What arrived. One SOP Instance UID with other bytes is kept beside the old one; `current` marks the newest.
CREATE TABLE instance (
    id INTEGER PRIMARY KEY,
    sop_instance_uid TEXT NOT NULL,
    digest TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    frame_of_reference_uid TEXT NOT NULL,
    header TEXT NOT NULL,              -- JSON of instance.Instance
    calling_ae_title TEXT NOT NULL,
    received_at REAL NOT NULL,
    own INTEGER NOT NULL,
    current INTEGER NOT NULL DEFAULT 1,
    planned INTEGER NOT NULL DEFAULT 0,
    UNIQUE (sop_instance_uid, digest)
) STRICT;
CREATE INDEX instance_unplanned ON instance (id) WHERE planned = 0;
CREATE INDEX instance_by_series ON instance (series_instance_uid) WHERE current = 1;
CREATE INDEX instance_by_study ON instance (study_instance_uid);
CREATE INDEX instance_by_frame_of_reference ON instance (frame_of_reference_uid) WHERE current = 1;

-- Which images a contour object was drawn on.
CREATE TABLE reference (
    roi_sop_instance_uid TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    PRIMARY KEY (roi_sop_instance_uid, sop_instance_uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX reference_by_image ON reference (sop_instance_uid);
CREATE TABLE reference_series (
    roi_sop_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    PRIMARY KEY (roi_sop_instance_uid, series_instance_uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX reference_series_by_series ON reference_series (series_instance_uid);

CREATE TABLE work_item (
    id INTEGER PRIMARY KEY,
    state TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    ct_series_instance_uid TEXT,
    roi_sop_instance_uid TEXT,
    key TEXT UNIQUE,                   -- content key; NULL while WAITING
    content_key TEXT,                  -- the key without the mark of a content that came back after another
    inputs_digest TEXT,                -- the part of the key that only new images or contours can change
    revision INTEGER NOT NULL DEFAULT 1,
    predecessor_key TEXT,
    plan TEXT,
    outcome TEXT,
    reason TEXT,
    hint TEXT,
    replan INTEGER NOT NULL DEFAULT 0, -- 1: asked for by an operator, also where images and contour are the same
    priority INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    lease_owner TEXT,
    lease_until REAL,
    run_after REAL NOT NULL DEFAULT 0,
    scheduled_at REAL,                 -- the time every report of this item carries, however often it is made
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
) STRICT;
CREATE INDEX work_item_by_state ON work_item (state, priority DESC, id);
CREATE INDEX work_item_by_roi ON work_item (roi_sop_instance_uid);
CREATE INDEX work_item_by_study ON work_item (study_instance_uid);
CREATE INDEX work_item_by_ct_series ON work_item (ct_series_instance_uid);
CREATE INDEX work_item_leased ON work_item (lease_owner) WHERE lease_owner IS NOT NULL;

CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    work_item_id INTEGER NOT NULL REFERENCES work_item (id),
    at REAL NOT NULL,
    name TEXT NOT NULL,
    detail TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX event_by_work_item ON event (work_item_id, id);

-- One row per object and destination.
CREATE TABLE delivery (
    id INTEGER PRIMARY KEY,
    work_item_id INTEGER NOT NULL REFERENCES work_item (id),
    document TEXT NOT NULL,            -- risk-sr, radiomics-sr, segmentation, page-1
    destination TEXT NOT NULL,         -- AE title of the peer
    state TEXT NOT NULL,
    sop_class_uid TEXT,                -- of the variant that was sent
    sop_instance_uid TEXT,
    status INTEGER,                    -- last DIMSE status
    final INTEGER NOT NULL DEFAULT 0,  -- 1: nothing more will be tried (proved, not provable there, or refused)
    detail TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    run_after REAL NOT NULL DEFAULT 0,
    unseen INTEGER NOT NULL DEFAULT 0, -- times that it was looked for and not found since it was first sent
    transaction_uid TEXT,              -- storage commitment asked for
    sent_at REAL,
    proved_at REAL,
    UNIQUE (work_item_id, document, destination)
) STRICT;
CREATE INDEX delivery_open ON delivery (run_after, id) WHERE final = 0;
CREATE INDEX delivery_open_by_work_item ON delivery (work_item_id) WHERE final = 0;
CREATE INDEX delivery_by_transaction ON delivery (transaction_uid) WHERE transaction_uid IS NOT NULL;
