-- What the database knows of itself: one row, or none before the first start of a server that knows this table. `id` is
-- random, and it is in every checkpoint's archive and in the bucket, as is the archive's number: an archive with a number
-- above `sequence` shows that this database is an older copy. So does a machine with such a number, which each gets when it becomes a sandbox's. `instance` and `base_uid` are what the machines of
-- this installation were started under, `key_fingerprint` names the server's key.
-- `sweep_held_back` is the number of archives that a sweep would set aside at once and does not, because it is a large
-- share of all; 0 is none. `sweep_allowed` is the operator's word that they may be set aside, `remove_now` that the next
-- sweep removes what is set aside without waiting.
CREATE TABLE installation (
    only_one         BIGINT  NOT NULL DEFAULT 1 PRIMARY KEY CHECK (only_one = 1),
    id               TEXT    NOT NULL,
    instance         TEXT    NOT NULL,
    key_fingerprint  TEXT    NOT NULL,
    base_uid         BIGINT  NOT NULL,
    sequence BIGINT  NOT NULL,
    sweep_held_back  BIGINT  NOT NULL DEFAULT 0,
    sweep_allowed    BOOLEAN NOT NULL DEFAULT FALSE,
    remove_now       BOOLEAN NOT NULL DEFAULT FALSE
);

-- The same instant as `timeout_at_ms`, in milliseconds since the host's boot: a clock that nobody can set, for as long as
-- the machine can live. Null in rows of servers before this version.
ALTER TABLE sandbox ADD COLUMN timeout_at_boot_ms BIGINT;

-- What no row names and garbage collection removes when it has waited long enough. `name` is an archive's id or the name
-- of a machine, `kind` is 'archive' or 'machine'. `waited_s` counts only seconds in which a server ran, because a clock
-- that is set forward, or a server that was off for long, must not make the wait shorter.
CREATE TABLE set_aside (
    name     TEXT   NOT NULL PRIMARY KEY,
    kind     TEXT   NOT NULL,
    bytes    BIGINT NOT NULL,
    waited_s BIGINT NOT NULL
);
