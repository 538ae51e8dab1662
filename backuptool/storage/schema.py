"""The tables of a repository: this DDL is the format's definition (docs/format.md explains it).

Owns the text of the schema and the numbers that identify the format. How it is executed is the database's business.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["ADDED", "APPLICATION_ID", "DDL", "FORMAT", "PAGE_SIZE", "statements"]

#: In the header of the SQLite file, offset 68: "bkup" in ASCII.
APPLICATION_ID = 0x626B7570

#: Version of the format, in the header as user_version. Each format has the tables of those before it, unchanged, and
#: some of its own: a file becomes one of the next format when these are added.
FORMAT = 2

#: Bytes. BLOB inserts run at 1.4 / 1.8 / 1.9 GB/s with 4 / 16 / 64 KiB pages, giving back 300 of 1,000 MB takes 5.9 s
#: with 4 KiB and 1.6 s with 16 KiB, and 20,000 random keys in an index of 2 M write 148 / 436 / 909 MB.
PAGE_SIZE = 16384

#: The tables of format 1.
DDL = """
CREATE TABLE settings (            -- what was decided when the repository was created
    name   TEXT PRIMARY KEY,
    value  NOT NULL
) WITHOUT ROWID;

CREATE TABLE sources (             -- one row per backed-up directory
    id    INTEGER PRIMARY KEY,
    host  TEXT NOT NULL,
    root  TEXT NOT NULL,           -- absolute path, bytes as the file system has them
    UNIQUE (host, root)
);

CREATE TABLE snapshots (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    source          INTEGER NOT NULL REFERENCES sources,
    started_ns      INTEGER NOT NULL,   -- ns since 1970 UTC
    finished_ns     INTEGER NOT NULL,   -- ns since 1970 UTC
    files           INTEGER NOT NULL,   -- entries that are not directories
    directories     INTEGER NOT NULL,
    size            INTEGER NOT NULL,   -- bytes of all files, each path counted
    distinct_size   INTEGER NOT NULL,   -- bytes of contents that no earlier kept snapshot has
    skipped_files   INTEGER NOT NULL,   -- left out because of their size
    problem_files   INTEGER NOT NULL,   -- could not be saved
    note            TEXT NOT NULL,
    tags            TEXT NOT NULL,      -- JSON array of strings, sorted
    tree_digest     BLOB NOT NULL,      -- sum modulo 2^256 of the SHA-256 of each file row, 32 bytes
    digest          BLOB NOT NULL       -- SHA-256 of this row and its source, 32 bytes
);

CREATE INDEX snapshots_source ON snapshots (source);

CREATE TABLE files (               -- one version of one path, valid for a range of its source's snapshots
    source    INTEGER NOT NULL REFERENCES sources,
    path      TEXT NOT NULL,       -- relative to the root, '/' between names, '' is the root itself
    first     INTEGER NOT NULL,    -- the snapshot that brought this version
    last      INTEGER,             -- the last snapshot that has it, NULL while it is current
    added     INTEGER NOT NULL,    -- 0 if brought by the source's first snapshot, else 1
    kind      TEXT NOT NULL,       -- f file, d directory, l symlink, p FIFO, s socket, c and b devices
    mode      INTEGER NOT NULL,    -- permission bits, 0 to 07777
    uid       INTEGER NOT NULL,
    gid       INTEGER NOT NULL,
    user      TEXT NOT NULL,       -- name of the owner, '' if unknown
    grp       TEXT NOT NULL,       -- name of the group, '' if unknown
    mtime_ns  INTEGER NOT NULL,    -- ns since 1970 UTC
    size      INTEGER NOT NULL,    -- bytes of a file, else 0
    content   INTEGER REFERENCES contents,  -- of a file
    sparse    INTEGER NOT NULL,    -- 1 if the file had holes
    rdev      INTEGER,             -- device number of a device
    target    TEXT,                -- of a symlink
    xattrs    BLOB,                -- extended attributes, NULL if none
    link      TEXT,                -- equal for all paths of one inode, NULL if it has no other path
    ctime_ns  INTEGER,             -- change detection: NULL if the file must be read again
    inode     INTEGER,             -- change detection
    PRIMARY KEY (source, path, first)
) WITHOUT ROWID;

CREATE INDEX files_last ON files (source, last) WHERE last IS NOT NULL;

CREATE INDEX files_first ON files (source, first) WHERE added;

CREATE TABLE contents (            -- deduplicated bytes: small files, chunks of large files, large files
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    hash    BLOB NOT NULL,         -- SHA-256 of the bytes, unique
    size    INTEGER NOT NULL,      -- bytes
    pack    INTEGER REFERENCES packs,  -- NULL if it consists of parts, or is empty
    offset  INTEGER,               -- where it begins in the decompressed pack
    refs    INTEGER NOT NULL,      -- rows of files and of parts that refer to it
    since   INTEGER NOT NULL,      -- the snapshot that brought it, 0 before that is committed
    layout  BLOB                   -- SHA-256 of its parts' list, NULL if it has no parts
);

CREATE INDEX contents_hash ON contents (substr(hash, 1, 8));

CREATE INDEX contents_pack ON contents (pack) WHERE pack IS NOT NULL;

CREATE TABLE parts (               -- a large content is a list of smaller contents and of holes
    content  INTEGER NOT NULL REFERENCES contents,
    offset   INTEGER NOT NULL,     -- where the part begins in the content
    part     INTEGER REFERENCES contents,  -- NULL is a hole: zeros up to the next part or the end
    PRIMARY KEY (content, offset)
) WITHOUT ROWID;

CREATE TABLE packs (               -- many contents compressed together
    id          INTEGER PRIMARY KEY,
    size        INTEGER NOT NULL,  -- bytes decompressed
    live        INTEGER NOT NULL,  -- bytes of it that are contents
    written_ns  INTEGER NOT NULL,  -- ns since 1970 UTC
    codec       TEXT NOT NULL,     -- zstd: one frame with checksum; raw: as it is
    data        BLOB NOT NULL
);

CREATE INDEX packs_half_empty ON packs (id) WHERE live * 2 < size;

CREATE TABLE pruned (              -- which snapshot has inherited the contents that a pruned one brought
    id    INTEGER PRIMARY KEY,     -- number of the pruned snapshot
    heir  INTEGER NOT NULL REFERENCES snapshots
);

CREATE VIEW snapshot_files AS      -- what each snapshot holds, for people who write SQL
    SELECT s.id AS snapshot_id, f.path, f.kind, f.mode, f.uid, f.gid, f.user, f.grp, f.mtime_ns, f.size,
           lower(hex(c.hash)) AS hash, f.target, f.link
      FROM snapshots AS s
      JOIN files AS f ON f.source = s.source AND f.first <= s.id AND (f.last IS NULL OR f.last >= s.id)
      LEFT JOIN contents AS c ON c.id = f.content;
"""

#: What a format adds to the one before it.
ADDED = {
    2: """
CREATE TABLE bases (               -- packs that were compressed with the bytes of another one as dictionary
    pack  INTEGER PRIMARY KEY REFERENCES packs,
    base  INTEGER NOT NULL REFERENCES packs   -- has no base itself
);

CREATE INDEX bases_base ON bases (base);

CREATE TABLE pins (                -- snapshots that are removed only after they were unpinned
    snapshot   INTEGER PRIMARY KEY REFERENCES snapshots,
    pinned_ns  INTEGER NOT NULL,   -- ns since 1970 UTC
    digest     BLOB NOT NULL       -- SHA-256 of this row, 32 bytes
);

CREATE TABLE changes (             -- what each snapshot changed against the one before it of its source
    snapshot         INTEGER PRIMARY KEY REFERENCES snapshots,
    new_files        INTEGER NOT NULL,
    changed_files    INTEGER NOT NULL,
    unchanged_files  INTEGER NOT NULL,
    removed_files    INTEGER NOT NULL,
    new_contents     INTEGER NOT NULL,  -- contents of files that no snapshot had before
    new_size         INTEGER NOT NULL,  -- bytes of contents that the repository did not have
    stored_size      INTEGER NOT NULL,  -- bytes that these took in packs
    alerts           TEXT NOT NULL,     -- JSON array of objects with kind and message: what is alarming about it
    digest           BLOB NOT NULL      -- SHA-256 of this row, 32 bytes
);

CREATE TABLE drills (              -- when snapshots were restored for proof
    id           INTEGER PRIMARY KEY,
    source       INTEGER NOT NULL REFERENCES sources,
    snapshot     INTEGER NOT NULL, -- its number; it may have been pruned since
    finished_ns  INTEGER NOT NULL, -- ns since 1970 UTC
    files        INTEGER NOT NULL, -- restored and compared
    size         INTEGER NOT NULL, -- bytes of these files
    failed       INTEGER NOT NULL, -- files that did not come back as they were saved
    complete     INTEGER NOT NULL, -- 1 if all files of the snapshot were restored, 0 if a sample was
    digest       BLOB NOT NULL     -- SHA-256 of this row, 32 bytes
);
"""
}


@lru_cache(maxsize=None)
def statements(first: int = 1, last: int = FORMAT) -> tuple[str, ...]:
    """Return the statements that make the tables of some formats, in order.

    Args:
        first: The lowest of these formats.
        last: The highest.
    """
    texts = [DDL if number == 1 else ADDED[number] for number in range(first, last + 1)]
    return tuple(part.strip() for text in texts for part in text.split(";\n") if part.strip())
