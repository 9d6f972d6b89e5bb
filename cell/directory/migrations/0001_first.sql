-- +goose Up
CREATE TABLE workspaces (
  id         TEXT   NOT NULL PRIMARY KEY,
  epoch      BIGINT NOT NULL,
  generation BIGINT NOT NULL,
  state      TEXT   NOT NULL,
  slug       TEXT   NOT NULL,
  name       TEXT   NOT NULL,
  last_move  TEXT   NOT NULL DEFAULT ''
);

CREATE TABLE users (
  workspace    TEXT    NOT NULL,
  generation   BIGINT  NOT NULL,
  id           TEXT    NOT NULL,
  name         TEXT    NOT NULL,
  display_name TEXT    NOT NULL,
  admin        INTEGER NOT NULL,
  urev         BIGINT  NOT NULL DEFAULT 0,
  PRIMARY KEY (workspace, generation, id),
  UNIQUE (workspace, generation, name)
);

CREATE TABLE channels (
  workspace     TEXT    NOT NULL,
  generation    BIGINT  NOT NULL,
  id            TEXT    NOT NULL,
  number        BIGINT  NOT NULL,
  name          TEXT    NOT NULL,
  topic         TEXT    NOT NULL,
  private       INTEGER NOT NULL,
  importing     INTEGER NOT NULL,
  import_digest TEXT    NOT NULL,
  created_by    TEXT    NOT NULL,
  created_ts    BIGINT  NOT NULL,
  members       BIGINT  NOT NULL DEFAULT 0,
  PRIMARY KEY (workspace, generation, id),
  UNIQUE (workspace, generation, name),
  UNIQUE (workspace, generation, number)
);

-- Until the joining is in the channel's log, joined_seq is minus the id of its entry
-- in the outbox: an older entry of the same user must not settle a newer joining.
CREATE TABLE members (
  workspace  TEXT   NOT NULL,
  generation BIGINT NOT NULL,
  channel    TEXT   NOT NULL,
  member     TEXT   NOT NULL,
  joined_seq BIGINT NOT NULL,
  joined_rev BIGINT NOT NULL,
  PRIMARY KEY (workspace, generation, channel, member)
);
CREATE INDEX members_by_user ON members (workspace, generation, member, channel);

CREATE TABLE outbox (
  id         BIGINT NOT NULL PRIMARY KEY,
  workspace  TEXT   NOT NULL,
  generation BIGINT NOT NULL,
  channel    TEXT   NOT NULL,
  kind       BIGINT NOT NULL,
  author     TEXT   NOT NULL,
  subjects   TEXT   NOT NULL,
  at         BIGINT NOT NULL
);
CREATE INDEX outbox_by_channel ON outbox (workspace, generation, channel, id);

CREATE TABLE user_changes (
  workspace  TEXT   NOT NULL,
  generation BIGINT NOT NULL,
  member     TEXT   NOT NULL,
  urev       BIGINT NOT NULL,
  kind       TEXT   NOT NULL,
  channel    TEXT   NOT NULL,
  author     TEXT   NOT NULL,
  at         BIGINT NOT NULL,
  PRIMARY KEY (workspace, generation, member, urev)
);

CREATE TABLE counters (
  name  TEXT   NOT NULL PRIMARY KEY,
  value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('outbox', 0);

-- +goose Down
DROP TABLE counters;
DROP TABLE user_changes;
DROP TABLE outbox;
DROP TABLE members;
DROP TABLE channels;
DROP TABLE users;
DROP TABLE workspaces;
