-- Times are Unix milliseconds, sizes are MiB. Plain SQL, so that the same file can serve Postgres.

CREATE TABLE organisation (
    id            TEXT   NOT NULL PRIMARY KEY,
    name          TEXT   NOT NULL UNIQUE,
    created_at_ms BIGINT NOT NULL
);

-- The secret itself is never stored: `hash` is its SHA-256 in lower-case hex, `display` its first characters.
CREATE TABLE api_key (
    id            TEXT   NOT NULL PRIMARY KEY,
    organisation  TEXT   NOT NULL REFERENCES organisation (id),
    hash          TEXT   NOT NULL UNIQUE,
    display       TEXT   NOT NULL,
    name          TEXT   NOT NULL,
    created_at_ms BIGINT NOT NULL,
    revoked_at_ms BIGINT
);

CREATE TABLE template (
    id            TEXT   NOT NULL PRIMARY KEY,
    name          TEXT   NOT NULL UNIQUE,
    rootfs_digest TEXT   NOT NULL,
    created_at_ms BIGINT NOT NULL
);

-- `machine` is the lifecycle's own record of the living VM, as JSON; null when there is none.
-- `checkpoint` is the archive that holds the stored state of a sandbox without a VM. `base` is the warm snapshot under the
-- living VM or under the checkpoint, `image` the digest of the guest image they are made from: together they say which
-- archives must be kept. `environment` is sealed with the server's key.
-- `network_policy` is what the API shows of it, as JSON without a secret; null is allow-all. `network_secrets` is the whole
-- policy where it has secrets, `egress_ca` the certificate and key of the sandbox's own authority; both are sealed.
CREATE TABLE sandbox (
    id                  TEXT    NOT NULL PRIMARY KEY,
    organisation        TEXT    NOT NULL REFERENCES organisation (id),
    template            TEXT    NOT NULL REFERENCES template (id),
    pod_id              TEXT    NOT NULL,
    vcpu                BIGINT  NOT NULL,
    memory_mib          BIGINT  NOT NULL,
    disk_mib            BIGINT  NOT NULL,
    timeout_s           BIGINT  NOT NULL,
    auto_pause          BOOLEAN NOT NULL,
    state               TEXT    NOT NULL,
    state_reason        TEXT,
    created_at_ms       BIGINT  NOT NULL,
    launched_at_ms      BIGINT,
    state_changed_at_ms BIGINT  NOT NULL,
    timeout_at_ms       BIGINT,
    machine             TEXT,
    checkpoint          TEXT,
    base                TEXT,
    image               TEXT,
    environment         TEXT,
    network_policy      TEXT,
    network_secrets     TEXT,
    egress_ca           TEXT
);

CREATE INDEX sandbox_by_age ON sandbox (organisation, created_at_ms, id);
CREATE INDEX sandbox_by_state ON sandbox (organisation, state, id);
CREATE INDEX sandbox_by_checkpoint ON sandbox (checkpoint) WHERE checkpoint IS NOT NULL;

-- Several snapshots, and a paused sandbox besides, may name one checkpoint: it goes with the last of them.
CREATE TABLE snapshot (
    id            TEXT   NOT NULL PRIMARY KEY,
    organisation  TEXT   NOT NULL REFERENCES organisation (id),
    name          TEXT   NOT NULL,
    template      TEXT   NOT NULL REFERENCES template (id),
    vcpu          BIGINT NOT NULL,
    memory_mib    BIGINT NOT NULL,
    disk_mib      BIGINT NOT NULL,
    checkpoint    TEXT   NOT NULL,
    base          TEXT   NOT NULL,
    image         TEXT   NOT NULL,
    environment   TEXT,
    network_policy  TEXT,
    network_secrets TEXT,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (organisation, name)
);

CREATE INDEX snapshot_by_age ON snapshot (organisation, created_at_ms, id);
CREATE INDEX snapshot_by_template ON snapshot (organisation, template, id);
CREATE INDEX snapshot_by_checkpoint ON snapshot (checkpoint);
